# SPDX-License-Identifier: Apache-2.0

"""Decode steps on command, timed: the twin of `dcp-bench step`, which runs it with ``--python``.

For each line on standard input a step goes to the end of a sequence; its seconds at the client are a line on standard
output. Then steps of both clients take turns, on the same ranks and in the same minutes.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import IO

import numpy as np
import numpy.typing as npt

from dcp_attention.cluster import Cluster
from dcp_attention.model import DType
from dcp_attention.values import Entry, Sequence

KV_LIMIT, QUERY_LIMIT = 1.0, 3.0


def numbers(random: np.random.Generator, shape: tuple[int, ...], limit: float, dtype: DType) -> npt.NDArray[np.generic]:
    """Numbers uniform in -limit...limit, bf16 as its bits."""
    values = random.uniform(-limit, limit, shape).astype(np.float32)
    if dtype is DType.BF16:
        return (values.view(np.uint32) >> 16).astype(np.uint16)
    return values.astype(np.float16 if dtype is DType.F16 else np.float32)


def run(cluster: Cluster, sequence: Sequence, count: int, queries: DType, lines: IO[str], out: IO[str]) -> None:
    """Sends a step for each line.

    Args:
        cluster: Whose ranks.
        sequence: At the end of which; of a model with one layer.
        count: Tokens of a step.
        queries: Their dtype; keys and values have the model's.
        lines: Commands, whatever they say.
        out: Where the seconds go.
    """
    attention, dtype = sequence.model.description.layers[0], sequence.model.description.kv_format.row_type
    random = np.random.default_rng(1)
    q = numbers(random, (count, attention.query_heads, attention.key_dim), QUERY_LIMIT, queries)
    k = numbers(random, (count, attention.kv_heads, attention.key_dim), KV_LIMIT, dtype)
    v = numbers(random, (count, attention.kv_heads, attention.value_dim), KV_LIMIT, dtype)
    position = cluster.resume(sequence)
    print("ready", file=out, flush=True)
    for _ in lines:
        start = time.perf_counter()
        cluster.step(0, [Entry(sequence, position, count)], q, k, v)
        seconds = time.perf_counter() - start
        position += count
        print(f"{seconds:.9f}", file=out, flush=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m dcp_attention.bench", description=__doc__)
    parser.add_argument("--coordinator", help="the coordinator's address; default: DCP_COORDINATOR")
    parser.add_argument("--sequence", required=True, help="the sequence that the steps go to")
    parser.add_argument("--count", type=int, default=1, help="tokens of a step")
    parser.add_argument("--queries", choices=("bf16", "f32"), default="bf16", help="the dtype of queries")
    arguments = parser.parse_args()
    with Cluster.connect(arguments.coordinator) as cluster:
        sequence = cluster.open(arguments.sequence, create=False)
        run(cluster, sequence, arguments.count, DType.named(arguments.queries), sys.stdin, sys.stdout)


if __name__ == "__main__":
    main()
