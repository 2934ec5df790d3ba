# SPDX-License-Identifier: Apache-2.0

"""Steps over grids of clusters, kinds of layers, dtypes and lengths, compared with dense attention in f64."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import dcp_support
import numpy as np
import numpy.typing as npt
import pytest
from dcp_support import bf16, dense, seeded, widened

from dcp_attention import (
    CacheFormat,
    Cluster,
    Commit,
    DType,
    Entry,
    LayerAttention,
    Model,
    ModelDescription,
    QueryMode,
    Sequence,
)
from dcp_attention._client import scaled

ROUNDS = int(os.environ.get("DCP_ROUNDS") or 12)
BLOCK = 16
KINDS = {
    "grouped": LayerAttention(query_heads=8, kv_heads=4, key_dim=32),
    "uneven heads": LayerAttention(query_heads=12, kv_heads=4, key_dim=16, value_dim=24),
    "window": LayerAttention(query_heads=4, kv_heads=4, key_dim=32, window=21),
    "soft cap": LayerAttention(query_heads=8, kv_heads=4, key_dim=32, softcap=3.0),
    "sinks": LayerAttention(query_heads=8, kv_heads=4, key_dim=32, window=40, has_sinks=True),
}
LATENT = LayerAttention(query_heads=8, kv_heads=1, key_dim=48, value_dim=32, leading_values=True)
CLUSTERS = [(1, 1, 1), (2, 1, 1), (2, 1, 8), (4, 1, 4), (4, 2, 16)]


@pytest.fixture(scope="module", params=CLUSTERS, ids=lambda shape: "x".join(map(str, shape)))
def shaped(request: pytest.FixtureRequest) -> Iterator[tuple[Cluster, int]]:
    """A client of ranks, head groups and interleave, and the head groups."""
    ranks, groups, interleave = request.param
    options = ("--head-groups", groups, "--interleave", interleave, "--block-tokens", BLOCK)
    with dcp_support.cluster(ranks, *options) as cluster, Cluster.connect(cluster.endpoint) as client:
        yield client, groups


def rounded(numbers: npt.NDArray[Any], dtype: DType) -> npt.NDArray[Any]:
    """Random numbers in a dtype, bf16 as its bits."""
    if dtype is DType.BF16:
        return bf16(numbers)
    return numbers.astype(np.float16 if dtype is DType.F16 else np.float32)


def kept(numbers: npt.NDArray[np.float64], kv_format: CacheFormat, *, are_keys: bool) -> npt.NDArray[np.float64]:
    """Numbers as a cache keeps them; bytes as the client's files round them, which `read` compares bit by bit."""
    if kv_format.has_scales:
        return widened(scaled.rounded(numbers.astype(np.float32), kv_format, are_keys=are_keys))
    return widened(rounded(numbers, kv_format.row_type))


@dataclass
class Twin:
    """A sequence, and what it has by the test's own account: keys and values as the cache rounds them."""

    sequence: Sequence
    committed: int = 0
    keys: list[npt.NDArray[np.float64]] = field(default_factory=list)
    values: list[npt.NDArray[np.float64]] = field(default_factory=list)

    @property
    def length(self) -> int:
        return len(self.keys[0])

    def cut(self, length: int) -> None:
        self.keys = [rows[:length] for rows in self.keys]
        self.values = [rows[:length] for rows in self.values]
        self.committed = min(self.committed, length)


class Script:
    """Draws what to do next, does it, and compares."""

    def __init__(self, client: Cluster, model: Model, random: np.random.Generator) -> None:
        self.client = client
        self.model = model
        self.random = random
        self.twins: list[Twin] = []
        self.made = 0
        logits = model.description.sinks
        self.sinks = [np.array(numbers) if numbers else None for numbers in logits]

    def open(self) -> None:
        self.made += 1
        sequence = self.client.open(f"{self.model.name}-{self.made}", self.model)
        layers = self.model.description.layers
        keys = [np.zeros((0, a.kv_heads, a.key_dim)) for a in layers]
        values = [np.zeros((0, a.kv_heads, a.value_dim)) for a in layers]
        self.twins.append(Twin(sequence, 0, keys, values))

    def count(self, twin: Twin) -> int:
        """Mostly a token or a few; or up to, or just beyond, the edge of a block of all ranks."""
        edge = BLOCK * 4 - twin.length % (BLOCK * 4)
        return int(self.random.choice([1, 1, 2, 5, edge - 1 or 1, edge, edge + 1]))

    def step(self) -> None:
        """A forward pass of some sequences at once."""
        chosen = [twin for twin in self.twins if self.random.random() < 0.7] or self.twins[:1]
        counts = [self.count(twin) for twin in chosen]
        tokens = sum(counts)
        halves = self.random.random() < 0.25
        mode = QueryMode(int(self.random.integers(1, 3)))
        dtypes = [DType(int(self.random.integers(1, 4))) for _ in range(2)]
        entries = [Entry(twin.sequence, twin.length, count) for twin, count in zip(chosen, counts, strict=True)]
        for layer, a in enumerate(self.model.description.layers):
            q = rounded(self.random.normal(size=(tokens, a.query_heads, a.key_dim)), dtypes[0])
            k = rounded(self.random.normal(size=(tokens, a.kv_heads, a.key_dim)), dtypes[1])
            v = None
            if not a.leading_values:
                v = rounded(self.random.normal(size=(tokens, a.kv_heads, a.value_dim)), dtypes[1])
            if halves:
                self.client.append(layer, entries, k, v)
                answer = self.client.query(layer, entries, q, query_mode=mode)
            else:
                answer = self.client.step(layer, entries, q, k, v, query_mode=mode)
            start = 0
            for twin, count in zip(chosen, counts, strict=True):
                rows = slice(start, start + count)
                self.append(twin, layer, k[rows], None if v is None else v[rows])
                position = len(twin.keys[layer]) - count
                out, lse = dense(a, widened(q[rows]), twin.keys[layer], twin.values[layer], position, self.sinks[layer])
                # Where bytes are multiplied, queries and weights have 16 bits.
                limit = 2e-3 if self.model.description.kv_format is CacheFormat.INT8 else 5e-5
                np.testing.assert_allclose(answer.out[rows], out, atol=limit, err_msg=f"layer {layer}, {entries}")
                assert answer.lse is not None
                np.testing.assert_allclose(answer.lse[rows], lse, atol=limit)
                start += count

    def append(self, twin: Twin, layer: int, k: npt.NDArray[Any], v: npt.NDArray[Any] | None) -> None:
        a, kv_format = self.model.description.layers[layer], self.model.description.kv_format
        keys = kept(widened(k), kv_format, are_keys=True)
        values = keys[..., : a.value_dim] if v is None else kept(widened(v), kv_format, are_keys=False)
        twin.keys[layer] = np.concatenate([twin.keys[layer], keys])
        twin.values[layer] = np.concatenate([twin.values[layer], values])

    def commit(self) -> None:
        commits = []
        for twin in self.twins:
            twin.committed = int(self.random.integers(twin.committed, twin.length + 1))
            commits.append(Commit(twin.sequence, twin.committed))
        self.client.commit(commits)

    def fork(self) -> None:
        parent = self.twins[int(self.random.integers(len(self.twins)))]
        length = int(self.random.integers(parent.length + 1))
        self.made += 1
        sequence = self.client.fork(parent.sequence, f"{self.model.name}-{self.made}", length)
        twin = Twin(sequence, parent.committed, list(parent.keys), list(parent.values))
        twin.cut(length)
        self.twins.append(twin)

    def cut(self) -> None:
        twin = self.twins[int(self.random.integers(len(self.twins)))]
        length = int(self.random.integers(twin.length + 1))
        self.client.cut(twin.sequence, length)
        twin.cut(length)

    def read(self) -> None:
        for twin in self.twins:
            progress = self.client.status(twin.sequence)
            assert (progress.committed, set(progress.layers)) == (twin.committed, {twin.length})
            layer = int(self.random.integers(len(twin.keys)))
            rows = self.client.rows(twin.sequence, layer)
            bits = rows.keys.view(np.uint16) if self.model.description.kv_format.row_type is DType.BF16 else rows.keys
            np.testing.assert_array_equal(widened(bits), twin.keys[layer][: twin.committed])

    def run(self, rounds: int) -> None:
        self.open()
        actions = [self.step, self.step, self.step, self.commit, self.fork, self.cut, self.read, self.open]
        for _ in range(rounds):
            self.step()
            actions[int(self.random.integers(len(actions)))]()
            while len(self.twins) > 4:
                twin = self.twins.pop(0)
                self.client.close_sequences([twin.sequence])
        self.read()
        self.client.close_sequences([twin.sequence for twin in self.twins])


@pytest.mark.parametrize("kv_format", list(CacheFormat), ids=lambda kv_format: kv_format.name.lower())
def test_steps_are_exact(shaped: tuple[Cluster, int], kv_format: CacheFormat) -> None:
    client, groups = shaped
    seed, random = seeded()
    kinds = [*KINDS.values()] if groups > 1 or kv_format.has_scales else [*KINDS.values(), LATENT]
    chosen = [kinds[int(index)] for index in random.choice(len(kinds), 3)]
    sinks = tuple(tuple(random.normal(size=kind.query_heads)) if kind.has_sinks else () for kind in chosen)
    model = client.register_model(f"{kv_format.name}-{seed}", ModelDescription(tuple(chosen), kv_format, sinks))
    Script(client, model, random).run(ROUNDS)
