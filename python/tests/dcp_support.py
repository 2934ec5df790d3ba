# SPDX-License-Identifier: Apache-2.0

"""Real daemons for tests, and attention as a textbook has it."""

from __future__ import annotations

import json
import os
import random
import signal
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dcp_attention import LayerAttention

# Chosen, and not measured at each start of a rank.
os.environ.setdefault("DCP_KERNELS_AHEAD", "first")

REPOSITORY = Path(__file__).resolve().parents[2]
FIXTURES = REPOSITORY / "Tests" / "Fixtures"


def binary(name: str) -> str:
    """A program of the build that is tested: of ``DCP_BIN``, else of ``.build/release``."""
    path = Path(os.environ.get("DCP_BIN") or REPOSITORY / ".build" / "release") / name
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; run `make build`, or name a directory with DCP_BIN")
    return str(path)


def dcpctl(*arguments: object, coordinator: str | None = None, status: int = 0) -> str:
    """Runs `dcpctl`, which has to end with a status."""
    environment = dict(os.environ)
    if coordinator is not None:
        environment["DCP_COORDINATOR"] = coordinator
    command = [binary("dcpctl"), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert result.returncode == status, f"{command}: {result.returncode}\n{result.stdout}\n{result.stderr}"
    return result.stdout


class LocalCluster:
    """A coordinator and ranks, as `dcpctl up` starts them, in a directory of their own."""

    def __init__(self, directory: str, *options: object) -> None:
        self.directory = directory
        dcpctl("up", "--dir", directory, "--detach", *options)

    @property
    def endpoint(self) -> str:
        """Of the coordinator."""
        return f"unix:{self.directory}/coordinator.sock"

    def pid(self, name: str) -> int:
        """The process of ``coordinator`` or ``rank-N``."""
        known: dict[str, Any] = json.loads(Path(self.directory, "pids.json").read_text())
        return int(next(d["process"]["pid"] for d in known["daemons"] if d["name"] == name))

    def kill(self, name: str) -> None:
        """Kills a daemon as a crash would; its process is gone when this returns."""
        pid = self.pid(name)
        descriptor = os.pidfd_open(pid)
        try:
            os.kill(pid, signal.SIGKILL)
            # Readable when the process has ended.
            import select

            select.select([descriptor], [], [])
        finally:
            os.close(descriptor)

    def start(self) -> None:
        """Starts the daemons that are gone, and waits until the cluster is ready."""
        dcpctl("up", "--dir", self.directory, "--detach")

    def stop(self) -> None:
        """Stops all daemons."""
        dcpctl("down", "--dir", self.directory)


@contextmanager
def cluster(ranks: int, *options: object) -> Iterator[LocalCluster]:
    """A cluster that ends with the block. Its directory is short: socket paths have 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="dcp-", ignore_cleanup_errors=True) as directory:
        running = LocalCluster(directory + "/c", "--ranks", ranks, *options)
        try:
            yield running
        finally:
            running.stop()


_DTYPES: dict[str, np.dtype[Any]] = {
    "BF16": np.dtype("<u2"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "U32": np.dtype("<u4"),
    "U8": np.dtype("u1"),
    "I8": np.dtype("u1"),
    "F8_E4M3": np.dtype("u1"),
}


def safetensors(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The tensors of a file; bf16 as u16, bytes as u8."""
    data = path.read_bytes()
    (count,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + count])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        start, end = (8 + count + offset for offset in entry["data_offsets"])
        tensors[name] = np.frombuffer(data[start:end], _DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return tensors


def seeded() -> tuple[int, np.random.Generator]:
    """A generator of a seed that is printed: of ``DCP_SEED``, else any."""
    seed = int(os.environ.get("DCP_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"seed {seed}; repeat with DCP_SEED={seed}")  # noqa: T201
    return seed, np.random.default_rng(seed)


def bf16(numbers: npt.NDArray[np.floating]) -> npt.NDArray[np.uint16]:
    """Numbers rounded to bf16, to nearest and ties to even, as their bits."""
    bits = np.ascontiguousarray(numbers, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def widened(numbers: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Numbers of any dtype, u16 as the bits of bf16, in f64."""
    if numbers.dtype == np.uint16:
        return (numbers.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return numbers.astype(np.float64)


def dense(
    attention: LayerAttention,
    queries: npt.NDArray[np.float64],
    keys: npt.NDArray[np.float64],
    values: npt.NDArray[np.float64] | None,
    position: int,
    sinks: npt.NDArray[np.float64] | None = None,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Causal attention in f64 of queries ``[T, Hq, Dk]`` from a position on over all keys ``[N, Hkv, Dk]`` up to each.

    Returns:
        Outputs ``[T, Hq, Dv]`` and log-sum-exps ``[T, Hq]``.
    """
    if values is None:
        values = keys[..., : attention.value_dim]
    group = attention.query_heads // attention.kv_heads
    tokens = len(queries)
    out = np.zeros((tokens, attention.query_heads, attention.value_dim))
    lse = np.zeros((tokens, attention.query_heads))
    for token in range(tokens):
        end = position + token + 1
        start = 0 if attention.window is None else max(0, end - attention.window)
        for head in range(attention.query_heads):
            scores = keys[start:end, head // group] @ queries[token, head] * attention.scale
            if attention.softcap is not None:
                scores = attention.softcap * np.tanh(scores / attention.softcap)
            sink = [] if sinks is None else [sinks[head]]
            top = max(scores.max(), *sink) if sink else scores.max()
            weights = np.exp(scores - top)
            total = weights.sum() + sum(np.exp(value - top) for value in sink)
            lse[token, head] = top + np.log(total)
            out[token, head] = weights @ values[start:end, head // group] / total
    return out, lse
