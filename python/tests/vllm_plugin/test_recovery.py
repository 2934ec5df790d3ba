# SPDX-License-Identifier: Apache-2.0

"""What is left when daemons, or everything, is killed."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from dcp_support import LocalCluster


def test_a_prefix_is_found_after_sigkill_of_everything(
    llama: Path,
    long: list[dict[str, Any]],
    own: Any,
    serve: Callable[..., Any],
    start: Callable[..., Any],
    cluster_of: Callable[[int], LocalCluster],
) -> None:
    cluster = cluster_of(4)
    engine = start({"model": str(llama), "endpoint": cluster.endpoint, "runs": long[2:]})
    answers = (line for line in engine.lines() if "request" in line)
    seen: list[int] = next(islice(answers, 40, None))["tokens"]
    engine.kill()
    for name in ("coordinator", "rank-0", "rank-1", "rank-2", "rank-3"):
        cluster.kill(name)

    cluster.start()
    going_on = long[2]["prompts"][0] + seen
    served = serve(llama, [{"prompts": [going_on], "max_tokens": 8}], cluster.endpoint)
    # All that was seen has been committed, but the last token: it was sampled, and perhaps not computed.
    assert served.runs[0][0]["cached"] == len(going_on) - 1
    assert seen + served.tokens()[0] == own.tokens(3)[0][: len(seen) + 8]


def test_a_killed_rank_is_a_delay(
    llama: Path,
    long: list[dict[str, Any]],
    own: Any,
    start: Callable[..., Any],
    cluster_of: Callable[[int], LocalCluster],
) -> None:
    cluster = cluster_of(2)
    engine = start({"model": str(llama), "endpoint": cluster.endpoint, "runs": long[1:2]})
    last: dict[int, list[int]] = {}
    for number, line in enumerate(line for line in engine.lines() if "request" in line):
        last[line["request"]] = line["tokens"]
        if number == 60:
            cluster.kill("rank-1")
            cluster.start()
    assert [last[request] for request in sorted(last)] == own.tokens(2)
