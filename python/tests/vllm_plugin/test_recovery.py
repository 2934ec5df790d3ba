"""What is left when daemons, or everything, is killed."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from dcp_support import LocalCluster


def test_a_prefix_is_found_after_sigkill_of_everything(
    llama: Path,
    prompts: list[list[int]],
    serve: Callable[..., Any],
    start: Callable[..., Any],
    cluster_of: Callable[[int], LocalCluster],
) -> None:
    prompt = prompts[4]
    cluster = cluster_of(4)
    job = {"model": str(llama), "endpoint": cluster.endpoint, "runs": [{"prompts": [prompt], "max_tokens": 1000}]}
    engine = start(job)
    answers = (line for line in engine.lines() if "request" in line)
    seen: list[int] = next(islice(answers, 40, None))["tokens"]
    engine.kill()
    for name in ("coordinator", "rank-0", "rank-1", "rank-2", "rank-3"):
        cluster.kill(name)

    cluster.start()
    going_on = prompt + seen
    served = serve(llama, [{"prompts": [going_on], "max_tokens": 8}], cluster.endpoint)
    # All that was seen has been committed, but the last token: it was sampled, and perhaps not computed.
    assert served.runs[0][0]["cached"] == len(going_on) - 1
    own = serve(llama, [{"prompts": [prompt], "max_tokens": len(seen) + 8}])
    assert seen + served.tokens()[0] == own.tokens()[0]


def test_a_killed_rank_is_a_delay(
    llama: Path,
    prompts: list[list[int]],
    serve: Callable[..., Any],
    start: Callable[..., Any],
    cluster_of: Callable[[int], LocalCluster],
) -> None:
    runs = [{"prompts": prompts[:4], "max_tokens": 60}]
    cluster = cluster_of(2)
    engine = start({"model": str(llama), "endpoint": cluster.endpoint, "runs": runs})
    last: dict[int, list[int]] = {}
    for number, line in enumerate(line for line in engine.lines() if "request" in line):
        last[line["request"]] = line["tokens"]
        if number == 60:
            cluster.kill("rank-1")
            cluster.start()
    assert [last[request] for request in sorted(last)] == serve(llama, runs).tokens()
