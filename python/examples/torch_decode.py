# SPDX-License-Identifier: Apache-2.0

"""A decode step of one layer on torch, to compare with `dcp-bench step`.

Once attention alone in one process, and once decode context parallel over processes that exchange partial outputs and
log-sum-exps with gloo.

    python torch_decode.py --contexts 4096 131072 --ranks 2

Each rank has one thread, as `dcp-bench step` has. Prints medians; the output is compared with float64.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

QUERY_HEADS, KV_HEADS, DIM = 32, 8, 128
GROUP = QUERY_HEADS // KV_HEADS


def cache(tokens: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values, bf16 [1, KV heads, tokens, dim]."""
    generator = torch.Generator().manual_seed(seed)
    shape = (1, KV_HEADS, tokens, DIM)
    return (
        torch.randn(shape, generator=generator, dtype=torch.bfloat16),
        torch.randn(shape, generator=generator, dtype=torch.bfloat16),
    )


def partial(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs and log-sum-exps over some tokens: the query heads of one KV head are rows of one product."""
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, False)


def median(run: Callable[[], object], runs: int) -> float:
    """Milliseconds."""
    run()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        run()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def step(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """What a rank does: its shard, one exchange, the merge."""
    output, lse = partial(q, k, v)
    mine = torch.cat([output.float(), lse.reshape(1, KV_HEADS, GROUP, 1).float()], dim=-1)
    parts = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, mine)
    every = torch.stack(parts)
    weights = torch.softmax(every[..., DIM:], dim=0)
    return (weights * every[..., :DIM]).sum(dim=0)


def rank(number: int, ranks: int, contexts: list[int], runs: int, store: str) -> None:
    """One process."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=number, world_size=ranks)
    q = torch.randn((1, KV_HEADS, GROUP, DIM), generator=torch.Generator().manual_seed(1)).bfloat16()
    for tokens in contexts:
        k, v = cache(tokens, seed=2)
        shard = (k[:, :, number::ranks].contiguous(), v[:, :, number::ranks].contiguous())
        scores = q.double() @ k.double().transpose(-1, -2) / DIM**0.5
        error = float((step(q, *shard) - torch.softmax(scores, dim=-1) @ v.double()).abs().max())
        dist.barrier()
        whole = median(lambda shard=shard: step(q, *shard), runs)
        attention = median(lambda shard=shard: partial(q, *shard), runs)
        if number == 0:
            print(f"{ranks} ranks, {tokens} tokens: {whole:.2f} ms, attention {attention:.2f}, error {error:.1e}")
    dist.destroy_process_group()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contexts", type=int, nargs="+", default=[1024, 4096, 131072])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--runs", type=int, default=50)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        store = os.path.join(directory, "store")
        multiprocessing.spawn(
            rank, (arguments.ranks, arguments.contexts, arguments.runs, store), nprocs=arguments.ranks
        )
    torch.set_num_threads(1)
    q = torch.randn((1, KV_HEADS, GROUP, DIM)).bfloat16()
    for tokens in arguments.contexts:
        k, v = cache(tokens, seed=2)
        alone = median(lambda k=k, v=v: partial(q, k, v), arguments.runs)
        print(f"one process, one thread, {tokens} tokens: {alone:.2f} ms")


if __name__ == "__main__":
    main()
