# SPDX-License-Identifier: Apache-2.0

"""Caches of bytes, `int8` and `fp8`: exact over what they keep, near what they were given, and the same bits after
cuts, forks, restarts and files.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dcp_support
import numpy as np
import numpy.typing as npt
import pytest
from dcp_support import dcpctl, dense, safetensors, seeded, widened

from dcp_attention import (
    CacheFormat,
    Cluster,
    Commit,
    DType,
    Entry,
    InvalidRequest,
    LayerAttention,
    ModelDescription,
    Sequence,
)
from dcp_attention._client import scaled

LAYERS = (
    LayerAttention(query_heads=8, kv_heads=2, key_dim=64),
    LayerAttention(query_heads=6, kv_heads=2, key_dim=40, value_dim=24, window=50, has_sinks=True),
)
SINKS = ((), (0.0, 1.0, -2.0, 0.5, 2.0, -1.0))
FORMATS = [CacheFormat.INT8, CacheFormat.FP8]
TOKENS = 150
# How far an answer may be from one over what was given, of the root mean square of the outputs: three times what
# *Byte formats* states for scores of a standard deviation of 1, since these are few tokens and heads.
STATED = {CacheFormat.INT8: 0.03, CacheFormat.FP8: 0.12}
# And from one over what the cache keeps: where bytes are multiplied, queries and weights have 16 bits.
ARITHMETIC = {CacheFormat.INT8: 2e-3, CacheFormat.FP8: 1e-4}

Floats = npt.NDArray[np.float32]


class Given:
    """What a test sends."""

    def __init__(self, random: np.random.Generator) -> None:
        def normal(heads: int, dim: int) -> Floats:
            return random.normal(size=(TOKENS, heads, dim)).astype(np.float32)

        self.q = [normal(a.query_heads, a.key_dim) for a in LAYERS]
        self.k = [normal(a.kv_heads, a.key_dim) for a in LAYERS]
        self.v = [normal(a.kv_heads, a.value_dim) for a in LAYERS]

    def play(self, client: Cluster, sequence: Sequence, start: int, end: int, chunk: int) -> list[Floats]:
        """Steps over some tokens; the outputs by layer."""
        outputs: list[list[Floats]] = [[] for _ in LAYERS]
        for first in range(start, end, chunk):
            rows = slice(first, min(first + chunk, end))
            entries = [Entry(sequence, first, rows.stop - first)]
            for layer in range(len(LAYERS)):
                answer = client.step(layer, entries, self.q[layer][rows], self.k[layer][rows], self.v[layer][rows])
                outputs[layer].append(answer.out)
        return [np.concatenate(parts) for parts in outputs]

    def expected(self, layer: int, start: int, end: int, kv_format: CacheFormat | None) -> npt.NDArray[np.float64]:
        """In f64, over keys and values as a cache keeps them, or as they are."""
        k, v = self.k[layer][:end], self.v[layer][:end]
        if kv_format is not None:
            k = scaled.rounded(k, kv_format, are_keys=True)
            v = scaled.rounded(v, kv_format, are_keys=False)
        sinks = np.array(SINKS[layer]) if SINKS[layer] else None
        return dense(LAYERS[layer], widened(self.q[layer][start:end]), widened(k), widened(v), start, sinks)[0]


@pytest.fixture(params=FORMATS, ids=lambda kv_format: kv_format.name.lower())
def described(request: pytest.FixtureRequest) -> ModelDescription:
    return ModelDescription(LAYERS, request.param, SINKS, "bytes")


def bits(outputs: list[Floats]) -> list[bytes]:
    return [rows.tobytes() for rows in outputs]


def test_append_attend_cut_fork_and_restart(described: ModelDescription) -> None:
    _, random = seeded()
    given, kv_format = Given(random), described.kv_format
    with dcp_support.cluster(3, "--interleave", 4, "--block-tokens", 16) as running:
        with Cluster.connect(running.endpoint, retry_for=60) as client:
            model = client.register_model("m", described)
            assert client.model("m").description == described
            chat = client.open("chat", model)
            whole = given.play(client, chat, 0, TOKENS, 37)
            client.commit([Commit(chat, TOKENS)])
            for layer, out in enumerate(whole):
                exact, plain = (given.expected(layer, 0, TOKENS, form) for form in (kv_format, None))
                np.testing.assert_allclose(out, exact, atol=ARITHMETIC[kv_format])
                size = np.sqrt(np.mean(plain[50:] ** 2))
                assert np.sqrt(np.mean((out - plain)[50:] ** 2)) < STATED[kv_format] * size
                rows = client.rows(chat, layer)
                for there, sent, are_keys in ((rows.keys, given.k[layer], True), (rows.values, given.v[layer], False)):
                    np.testing.assert_array_equal(there, scaled.rounded(sent, kv_format, are_keys=are_keys))
            # In the middle of a block: what is appended again has the bits that it had.
            client.cut(chat, 77)
            again = given.play(client, chat, 77, TOKENS, 37)
            tail = given.play(client, client.open("steps", model), 0, TOKENS, 37)
            assert bits(tail) == bits(whole)
            fork = client.fork(chat, "fork", 77)
            assert bits(given.play(client, fork, 77, TOKENS, 37)) == bits(again)
            client.commit([Commit(chat, TOKENS), Commit(fork, 120)])
            for name in ("rank-0", "rank-1", "rank-2", "coordinator"):
                running.kill(name)
            running.start()
            client.cut(chat, 77)
            client.cut(fork, 77)
            assert bits(given.play(client, chat, 77, TOKENS, 37)) == bits(again)
            assert bits(given.play(client, fork, 77, TOKENS, 37)) == bits(again)
        dcpctl("verify", coordinator=running.endpoint)


@pytest.fixture
def stored(running: dcp_support.LocalCluster, described: ModelDescription) -> Iterator[tuple[Cluster, Sequence]]:
    _, random = seeded()
    with Cluster.connect(running.endpoint) as client:
        model = client.register_model(f"bytes-{described.kv_format.name}", described)
        sequence = client.open(f"bytes-{random.integers(1 << 32)}", model)
        Given(random).play(client, sequence, 0, TOKENS, 64)
        client.commit([Commit(sequence, TOKENS, token_ids=range(TOKENS))])
        yield client, sequence
        client.close_sequences([sequence])


def test_files_keep_every_bit_and_half_the_size(
    running: dcp_support.LocalCluster, stored: tuple[Cluster, Sequence], tmp_path: Path
) -> None:
    client, sequence = stored
    description, kv_format = sequence.model.description, sequence.model.description.kv_format
    ours, theirs, again = (tmp_path / f"{name}.safetensors" for name in ("ours", "theirs", "again"))
    moved = client.export(sequence, ours)
    assert moved.bytes == TOKENS * description.kept_bytes
    dcpctl("sequence", "export", sequence.name, theirs, coordinator=running.endpoint)
    some, others = safetensors(ours), safetensors(theirs)
    assert some.keys() == others.keys()
    for name in some:
        np.testing.assert_array_equal(some[name], others[name], name)
    assert some["layers.0.k"].itemsize == 1
    assert some["layers.1.v_scale"].shape == (TOKENS, 2)
    assert ("layers.0.k_apart" in some) == (kv_format is CacheFormat.INT8)
    with dcp_support.cluster(2, "--interleave", 16) as other, Cluster.connect(other.endpoint) as elsewhere:
        dcpctl("sequence", "import", ours, "--name", "a", coordinator=other.endpoint)
        assert elsewhere.import_(theirs, name="b").bytes == moved.bytes
        assert elsewhere.import_(theirs, name="b", resume=True).tokens_kept == TOKENS
        for name in ("a", "b"):
            copy = elsewhere.open(name)
            for layer in range(len(LAYERS)):
                mine, copied = client.rows(sequence, layer), elsewhere.rows(copy, layer)
                assert mine.keys.tobytes() == copied.keys.tobytes()
                assert mine.values is not None
                assert copied.values is not None
                assert mine.values.tobytes() == copied.values.tobytes()
            elsewhere.export(copy, again)
            for tensor, numbers in safetensors(again).items():
                np.testing.assert_array_equal(numbers, some[tensor], tensor)
    assert kv_format.has_scales


@pytest.mark.parametrize("dtype", [DType.BF16, DType.F16, DType.F32])
def test_files_of_rows(
    running: dcp_support.LocalCluster, stored: tuple[Cluster, Sequence], tmp_path: Path, dtype: DType
) -> None:
    client, sequence = stored
    kv_format = sequence.model.description.kv_format
    ours, theirs = tmp_path / "ours.safetensors", tmp_path / "theirs.safetensors"
    client.export(sequence, ours, dtype=dtype.name.lower())
    dcpctl("sequence", "export", sequence.name, theirs, "--as", dtype.name.lower(), coordinator=running.endpoint)
    some, others = safetensors(ours), safetensors(theirs)
    for name in some:
        np.testing.assert_array_equal(some[name], others[name], name)
    copy = client.import_(ours, name=f"{sequence.name}-copy").sequence
    assert client.import_(ours, name=copy.name, resume=True).tokens_kept == TOKENS
    for layer in range(len(LAYERS)):
        rows, copied = client.rows(sequence, layer), client.rows(copy, layer)
        sent = scaled.widened(scaled.narrowed(np.asarray(rows.keys, np.float32), dtype), dtype)
        np.testing.assert_array_equal(copied.keys, scaled.rounded(sent, kv_format, are_keys=True))
        if dtype is DType.F32:
            assert copied.keys.tobytes() == rows.keys.tobytes()
    client.close_sequences([copy])


def test_a_number_that_a_dtype_cannot_hold(client: Cluster, tmp_path: Path) -> None:
    description = ModelDescription.uniform(1, query_heads=2, kv_heads=1, key_dim=16, kv_format="fp8")
    sequence = client.open("large", client.register_model("large", description))
    rows = np.ones((3, 1, 16), np.float32)
    client.append(0, [Entry(sequence, 0, 3)], rows, rows * 7e4)
    client.commit([Commit(sequence, 3)])
    with pytest.raises(InvalidRequest, match=r"layers\.0\.v has 7\d+\.\d+, which f16 cannot hold"):
        client.export(sequence, tmp_path / "large", dtype="f16")
    assert list(tmp_path.iterdir()) == []
    client.close_sequences([sequence])


def test_rounding_is_that_of_the_daemons_at_any_size(client: Cluster) -> None:
    """Rows of zeros, tiny and huge ones, numbers that stand out, and what is e4m3 already."""
    seed, random = seeded()
    for kv_format in FORMATS:
        kind = LayerAttention(query_heads=2, kv_heads=2, key_dim=136, value_dim=96)
        model = client.register_model(f"sizes-{kv_format.name}-{seed}", ModelDescription((kind,), kv_format))
        sequence = client.open(f"sizes-{kv_format.name}-{seed}", model)
        count = 200

        def drawn(dim: int, count: int = count) -> Floats:
            rows = random.normal(size=(count, 2, dim)) * 2.0 ** random.integers(-70, 50, (count, 2, 1))
            rows[random.random((count, 2)) < 0.1] = 0
            rows[..., 5] *= np.where(random.random((count, 2)) < 0.5, 100, 1)
            rows[random.random(rows.shape) < 0.05] = 0
            return rows.astype(np.float32)

        def exact(rows: Floats) -> Floats:
            some = scaled.ScaledRows(
                random.integers(0, 127, rows.shape).astype(np.uint8), 2.0 ** random.integers(-9, 9, rows.shape[:2])
            )
            return scaled.numbers(some, CacheFormat.FP8, are_rotated=False).astype(np.float32)

        k, v = drawn(136), drawn(96)
        k[::7], v[::7] = exact(k[::7]), exact(v[::7])
        client.append(0, [Entry(sequence, 0, count)], k, v)
        client.commit([Commit(sequence, count)])
        rows = client.rows(sequence, 0)
        for there, sent, are_keys in ((rows.keys, k, True), (rows.values, v, False)):
            expected = scaled.rounded(sent, kv_format, are_keys=are_keys)
            assert np.asarray(there).tobytes() == expected.tobytes()
            once = scaled.scaled(sent, kv_format, are_keys=are_keys)
            twice = scaled.scaled(expected, kv_format, are_keys=are_keys)
            np.testing.assert_array_equal(once.codes, twice.codes)
            np.testing.assert_array_equal(once.scales, twice.scales)
            np.testing.assert_array_equal(once.words, twice.words)
            if are_keys and kv_format is CacheFormat.INT8:
                # A dimension that stands out in half of the rows is kept apart.
                assert once.words is not None
                assert 0.2 < np.mean(once.words != 0) < 0.8
            if kv_format is CacheFormat.FP8:
                np.testing.assert_array_equal(expected[::7], sent[::7])
        client.close_sequences([sequence])
