# SPDX-License-Identifier: Apache-2.0

"""Greedy tokens are vLLM's own, whoever computes the attention."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dcp_support import LocalCluster

Serve = Callable[..., Any]
ClusterOf = Callable[[int], LocalCluster]
TOKENS = 16


CHUNKS = {"max_num_batched_tokens": 256}  # of several requests at once


def test_tokens_are_vllms_own(
    llama: Path, prompts: list[list[int]], own: Any, serve: Serve, cluster_of: ClusterOf
) -> None:
    runs = [{"prompts": prompts, "max_tokens": TOKENS}]
    for ranks in (2, 4):
        served = serve(llama, runs, cluster_of(ranks).endpoint, options=CHUNKS)
        assert_same(served.runs[0], own.runs[0])
        assert served.capacity > 100 * own.capacity, "vLLM's own pages bound the context"


def test_tokens_in_bf16_are_vllms_own(
    llama: Path, prompts: list[list[int]], serve: Serve, cluster_of: ClusterOf
) -> None:
    runs = [{"prompts": prompts, "max_tokens": TOKENS}]
    own = serve(llama, runs, dtype="bfloat16")
    for ranks in (2, 4):
        served = serve(llama, runs, cluster_of(ranks).endpoint, dtype="bfloat16", options=CHUNKS)
        # Two logits that are each off by a unit of bf16, 1/8 from 16 on: vLLM rounds otherwise on other processors.
        assert_same(served.runs[0], own.runs[0], margin=0.26)


def test_windows_are_the_models(windowed: Path, prompts: list[list[int]], serve: Serve, cluster_of: ClusterOf) -> None:
    runs = [{"prompts": prompts, "max_tokens": TOKENS}]
    assert_same(serve(windowed, runs, cluster_of(2).endpoint).runs[0], serve(windowed, runs).runs[0])


def test_windows_take_no_requests_identity(
    windowed: Path, prompts: list[list[int]], serve: Serve, cluster_of: ClusterOf
) -> None:
    """A request that is past its window, others that come then, and some that begin with more than a window."""
    _, _, short, first, long, _ = prompts
    runs = [
        {"prompts": [first, short, short[1:], short[2:], short[3:]], "max_tokens": 60, "after": [0, 20, 20, 20, 20]},
        {"prompts": [long], "max_tokens": 4},
        {"prompts": [long + short, long + first], "max_tokens": TOKENS},
    ]
    served, own = serve(windowed, runs, cluster_of(2).endpoint), serve(windowed, runs)
    for run in range(len(runs)):
        assert_same(served.runs[run], own.runs[run])
    assert [line["cached"] for line in served.runs[2]] == [len(long), len(long)]


def test_a_prefix_is_found_by_its_tokens_and_only_in_its_scope(
    llama: Path, prompts: list[list[int]], serve: Serve, cluster_of: ClusterOf
) -> None:
    prompt = prompts[3]
    longer = prompt + prompts[2]
    runs = [
        {"prompts": [prompt], "max_tokens": 4},
        {"prompts": [longer, longer, longer], "max_tokens": 4, "salts": [None, "alice", "bob"]},
        {"prompts": [longer, longer, prompts[1]], "max_tokens": 4, "salts": [None, "alice", None]},
    ]
    served = serve(llama, runs, cluster_of(2).endpoint)
    assert [line["cached"] for line in served.runs[0]] == [0]
    assert [line["cached"] for line in served.runs[1]] == [len(prompt), 0, 0]
    assert [line["cached"] for line in served.runs[2]] == [len(longer) - 1, len(longer) - 1, 0]
    assert served.tokens(1) == 3 * served.tokens(1)[:1]
    assert served.tokens(2)[:2] == served.tokens(1)[:2]


def test_a_preempted_request_goes_on_where_it_was(
    llama: Path, long: list[dict[str, Any]], own: Any, serve: Serve, cluster_of: ClusterOf
) -> None:
    # 18 blocks of 32 tokens: room for 4 of the 8 prompts, and not for what they write.
    options = {"max_model_len": 512, "block_size": 32, "num_gpu_blocks_override": 18}
    cluster = cluster_of(2)
    served = serve(llama, long[:1], cluster.endpoint, options=options)
    assert served.preemptions > 0
    # The second four find what the first four left. The coordinator's canary brings a token every ten seconds.
    fewest = 4 * 100 + 8 * 79
    assert fewest <= step_tokens(cluster) < fewest + 100, "a preempted request was computed again"
    assert_same(served.runs[0], own.runs[1])


def step_tokens(cluster: LocalCluster) -> int:
    """How many tokens steps brought, as rank 0 counts them."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(f"{cluster.directory}/rank-0.http")
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: dcp\r\nConnection: close\r\n\r\n")
        text = b"".join(iter(lambda: connection.recv(1 << 16), b"")).decode()
    return int(float(next(line for line in text.splitlines() if line.startswith("dcp_step_tokens_total")).split()[-1]))


def assert_same(served: list[dict[str, Any]], own: list[dict[str, Any]], margin: float = 0) -> None:
    """Tokens are equal, but where vLLM's own attention was undecided between two within a margin of nats."""
    for line, other in zip(served, own, strict=True):
        equal = [a == b for a, b in zip(line["tokens"], other["tokens"], strict=True)]
        if not all(equal):
            place = equal.index(False)
            assert other["margins"][place] < margin, f"request {line['request']} differs from token {place} on"
