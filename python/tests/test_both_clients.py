# SPDX-License-Identifier: Apache-2.0

"""This client and the Swift one (`dcpctl`) on the same sequences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dcp_support
import numpy as np
import pytest
from dcp_support import FIXTURES, LocalCluster, dcpctl, safetensors, seeded

from dcp_attention import Cluster, Commit, Conflict, Entry, InvalidRequest, Model, ModelDescription, Sequence

TRACE = FIXTURES / "smollm2-trace.safetensors"
EXPECTED = FIXTURES / "smollm2-trace-expected.safetensors"


@pytest.fixture(scope="module")
def trace() -> dict[str, Any]:
    return safetensors(TRACE)


def test_a_real_models_trace_begun_by_dcpctl_and_gone_on_with_here(
    running: LocalCluster, client: Cluster, trace: dict[str, Any], tmp_path: Path
) -> None:
    """dcpctl submits all; a fork of the first half goes on here, and both end with the same attention."""
    dcpctl("submit", TRACE, "--sequence", "trace", "--chunk", 96, coordinator=running.endpoint)
    original = client.open("trace")
    client.resume(original)
    expected = safetensors(EXPECTED)
    half = client.fork(original, "trace-half", 160)
    for start, end in [(160, 250), *((n, n + 1) for n in range(250, 320))]:
        for layer in range(3):
            rows = slice(start, end)
            q, k, v = (trace[f"layers.{layer}.{letter}"][rows] for letter in "qkv")
            answer = client.step(layer, [Entry(half, start, end - start)], q, k, v)
            np.testing.assert_allclose(answer.out, expected[f"layers.{layer}.o"][rows], atol=2e-5)
            assert answer.lse is not None
            np.testing.assert_allclose(answer.lse, expected[f"layers.{layer}.lse"][rows], atol=2e-5)
    client.commit([Commit(half, 320)])
    for layer in range(3):
        np.testing.assert_array_equal(client.rows(half, layer).keys, client.rows(original, layer).keys)
    client.close_sequences([original, half])


def test_a_sequence_begun_here_and_gone_on_with_by_dcpctl(
    running: LocalCluster, client: Cluster, trace: dict[str, Any], tmp_path: Path
) -> None:
    description = ModelDescription.uniform(3, query_heads=9, kv_heads=3, key_dim=64)
    model = client.register_model("begun-here", description)
    sequence = client.open("begun", model)
    for layer in range(3):
        tensors = [trace[f"layers.{layer}.{letter}"][:100] for letter in "qkv"]
        client.step(layer, [Entry(sequence, 0, 100)], *tensors)
    client.commit([Commit(sequence, 100)])
    options = ("--sequence", "begun", "--model", model.name, "--continue", "--expect", EXPECTED, "--tolerance", 2e-5)
    dcpctl("submit", TRACE, *options, coordinator=running.endpoint)
    assert client.status(sequence).committed == 320
    client.resume(sequence)
    client.close_sequences([sequence])


@pytest.fixture
def stored(client: Cluster) -> tuple[Sequence, Model]:
    """A sequence with ids and an annotation, of several kinds of layers, in bf16."""
    _, random = seeded()
    from dcp_attention import LayerAttention

    layers = (
        LayerAttention(query_heads=4, kv_heads=2, key_dim=16),
        LayerAttention(query_heads=4, kv_heads=1, key_dim=24, value_dim=16, leading_values=True),
    )
    model = client.register_model("mixed", ModelDescription(layers, revision="r1"))
    sequence = client.open(f"stored-{random.integers(1 << 32)}", model, scope="tenant")
    for layer, kind in enumerate(layers):
        q = random.normal(size=(70, 4, kind.key_dim)).astype(np.float32)
        k = random.normal(size=(70, kind.kv_heads, kind.key_dim)).astype(np.float32)
        v = None if kind.leading_values else random.normal(size=(70, kind.kv_heads, kind.value_dim)).astype(np.float32)
        client.step(layer, [Entry(sequence, 0, 70)], q, k, v)
    client.commit([Commit(sequence, 70, token_ids=range(70), annotation=b"a note")])
    return sequence, model


def test_files_of_one_are_files_of_the_other(
    running: LocalCluster, client: Cluster, stored: tuple[Sequence, Model], tmp_path: Path
) -> None:
    sequence, model = stored
    ours, theirs = tmp_path / "ours.safetensors", tmp_path / "theirs.safetensors"
    moved = client.export(sequence, ours)
    dcpctl("sequence", "export", sequence.name, theirs, coordinator=running.endpoint)
    some, others = safetensors(ours), safetensors(theirs)
    assert some.keys() == others.keys()
    assert moved.bytes == sum(some[name].nbytes for name in some if name.startswith("layers"))
    for name in some:
        np.testing.assert_array_equal(some[name], others[name])
    with dcp_support.cluster(4, "--interleave", 16) as other, Cluster.connect(other.endpoint) as elsewhere:
        dcpctl("sequence", "import", ours, coordinator=other.endpoint)
        imported = elsewhere.import_(theirs, name="again")
        assert (imported.tokens, imported.tokens_kept, imported.sequence.scope) == (70, 0, "tenant")
        assert elsewhere.import_(theirs, name="again", resume=True).tokens_kept == 70
        for copy in (elsewhere.open(sequence.name), elsewhere.open("again")):
            assert elsewhere.token_ids(copy).tolist() == list(range(70))
            assert elsewhere.annotation(copy) == b"a note"
            assert copy.model.description == model.description
            for layer in range(2):
                rows = elsewhere.rows(copy, layer)
                np.testing.assert_array_equal(rows.keys.view(np.uint16), some[f"layers.{layer}.k"])
            elsewhere.resume(copy)
        with pytest.raises(Conflict, match="exists with 70 tokens; continue an interrupted import with resume=True"):
            elsewhere.import_(theirs, name="again")
    client.close_sequences([sequence])


def test_files_that_are_no_exports(client: Cluster, stored: tuple[Sequence, Model], tmp_path: Path) -> None:
    sequence, _ = stored
    path = tmp_path / "file.safetensors"
    client.export(sequence, path)
    client.close_sequences([sequence])
    data = path.read_bytes()
    for damaged, message in (
        (b"", "has no header of safetensors"),
        (data[:100], "has no header of safetensors"),
        (data[:-1], "the file is cut off"),
        (
            data.replace(b"dcp-sequence", b"another-form"),
            "the metadata's `format` is 'another-form', not `dcp-sequence`",
        ),
        (data.replace(b'"layers.1.k"', b'"layers.9.k"'), "tensor layers.1.k is missing"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(InvalidRequest, match=message):
            client.import_(path)


def test_dcpctl_reads_the_model_that_was_registered_here(running: LocalCluster, client: Cluster) -> None:
    path = FIXTURES / "model-configs" / "gemma2.json"
    client.register_model("gemma2", ModelDescription.from_transformers(path, revision="r7"))
    # Registering it again changes nothing, and a description that differs is refused.
    dcpctl("model", "add", "gemma2", "--config", path, "--revision", "r7", coordinator=running.endpoint)
    dcpctl("model", "add", "gemma2", "--config", path, "--kv-format", "f32", coordinator=running.endpoint, status=65)
    client.remove_model("gemma2")
