# SPDX-License-Identifier: Apache-2.0

"""The calls of a cluster, over real daemons."""

from __future__ import annotations

import asyncio
import inspect
import io
import itertools
from collections.abc import Iterator

import dcp_support
import numpy as np
import pytest
from dcp_support import dense, seeded, widened

from dcp_attention import (
    AsyncCluster,
    Claimed,
    Cluster,
    Commit,
    Conflict,
    DType,
    Entry,
    Fork,
    InvalidRequest,
    Model,
    ModelDescription,
    ModelMismatch,
    Phase,
    PositionMismatch,
    QueryMode,
    Sequence,
    ServiceError,
    UnknownModel,
    UnknownSequence,
    Unreachable,
    bench,
)

LAYERS, HQ, HKV, D = 2, 8, 2, 64
_numbers = itertools.count()


@pytest.fixture
def model(client: Cluster) -> Model:
    description = ModelDescription.uniform(LAYERS, query_heads=HQ, kv_heads=HKV, key_dim=D, kv_format="f32")
    return client.register_model("small", description)


def name() -> str:
    return f"sequence-{next(_numbers)}"


@pytest.fixture
def sequence(client: Cluster, model: Model) -> Iterator[Sequence]:
    opened = client.open(name(), model)
    yield opened
    if opened.name in {known.name for known in client.sequences()}:
        client.resume(opened)
        client.close_sequences([opened])


class Text:
    """Random queries, keys and values of some tokens: ``[layers, tokens, heads, dim]``, and steps over them."""

    def __init__(self, tokens: int, random: np.random.Generator) -> None:
        self.q = random.normal(size=(LAYERS, tokens, HQ, D)).astype(np.float32)
        self.k = random.normal(size=(LAYERS, tokens, HKV, D)).astype(np.float32)
        self.v = random.normal(size=(LAYERS, tokens, HKV, D)).astype(np.float32)

    def step(self, client: Cluster, sequence: Sequence, start: int, end: int) -> None:
        """All layers, each answer compared."""
        attention = sequence.model.description.layers[0]
        for layer in range(LAYERS):
            rows = slice(start, end)
            entry = Entry(sequence, start, end - start)
            answer = client.step(layer, [entry], self.q[layer, rows], self.k[layer, rows], self.v[layer, rows])
            keys, values = widened(self.k[layer, :end]), widened(self.v[layer, :end])
            out, lse = dense(attention, widened(self.q[layer, rows]), keys, values, start)
            np.testing.assert_allclose(answer.out, out, atol=2e-5)
            assert answer.lse is not None
            np.testing.assert_allclose(answer.lse, lse, atol=2e-5)


def test_a_conversation(client: Cluster, sequence: Sequence) -> None:
    _, random = seeded()
    text = Text(150, random)
    text.step(client, sequence, 0, 140)
    client.commit([Commit(sequence, 140, token_ids=range(1000, 1140), annotation=b"left here")])
    for position in range(140, 150):
        text.step(client, sequence, position, position + 1)
    progress = client.status(sequence)
    assert (progress.committed, progress.layers, progress.length, progress.token_ids) == (140, (150, 150), 150, 140)
    assert sum(progress.local_tokens) == 140
    assert client.annotation(sequence) == b"left here"
    assert client.token_ids(sequence).tolist() == list(range(1000, 1140))
    assert client.token_ids(sequence, 3, 2).tolist() == [1003, 1004]
    rows = client.rows(sequence, 1, 5, 130)
    np.testing.assert_array_equal(rows.keys, text.k[1, 5:135])
    assert rows.values is not None
    np.testing.assert_array_equal(rows.values, text.v[1, 5:135])


def test_a_step_commits_what_it_is_told_to(client: Cluster, sequence: Sequence) -> None:
    _, random = seeded()
    text = Text(12, random)
    text.step(client, sequence, 0, 10)
    entry, rows = Entry(sequence, 10, 2), slice(10, 12)
    # Of the tokens before it, with the first layer's; with the last layer's of its own, too.
    for layer, length in enumerate((10, 12)):
        commit = Commit(sequence, length, token_ids=range(length), first_id=0)
        client.step(layer, [entry], text.q[layer, rows], text.k[layer, rows], text.v[layer, rows], commits=[commit])
        progress = client.status(sequence)
        assert (progress.committed, progress.token_ids) == (length, length)
    assert client.token_ids(sequence).tolist() == list(range(12))


def test_several_sequences_in_one_step_of_unequal_counts(client: Cluster, model: Model) -> None:
    _, random = seeded()
    counts = [1, 7, 3]
    texts = [Text(40, random) for _ in counts]
    sequences = client.open_many([name() for _ in counts], model)
    for place, (text, sequence) in enumerate(zip(texts, sequences, strict=True)):
        text.step(client, sequence, 0, 10 + place)
    entries = [Entry(s, 10 + place, count) for place, (s, count) in enumerate(zip(sequences, counts, strict=True))]
    parts = [slice(entry.position, entry.position + entry.count) for entry in entries]
    joined = [
        np.concatenate([getattr(text, letter)[0, part] for text, part in zip(texts, parts, strict=True)])
        for letter in "qkv"
    ]
    answer = client.step(0, entries, *joined, lse=False, query_mode=QueryMode.REPLICATE)
    assert answer.lse is None
    start = 0
    for text, part, entry in zip(texts, parts, entries, strict=True):
        keys, values = widened(text.k[0, : part.stop]), widened(text.v[0, : part.stop])
        out, _ = dense(model.description.layers[0], widened(text.q[0, part]), keys, values, entry.position)
        np.testing.assert_allclose(answer.out[start : start + entry.count], out, atol=2e-5)
        start += entry.count
    client.close_sequences(sequences)
    with pytest.raises(UnknownSequence):
        client.open(sequences[0].name, create=False)


def test_appends_and_queries_are_the_halves_of_a_step(client: Cluster, sequence: Sequence) -> None:
    _, random = seeded()
    text = Text(90, random)
    entry = Entry(sequence, 0, 90)
    client.append(0, [entry], text.k[0], text.v[0])
    answer = client.query(0, [Entry(sequence, 80, 10)], text.q[0, 80:])
    keys, values = widened(text.k[0]), widened(text.v[0])
    out, lse = dense(sequence.model.description.layers[0], widened(text.q[0, 80:]), keys, values, 80)
    np.testing.assert_allclose(answer.out, out, atol=2e-5)
    assert answer.lse is not None
    np.testing.assert_allclose(answer.lse, lse, atol=2e-5)


def test_more_than_a_frame_holds_is_several_steps(
    client: Cluster, sequence: Sequence, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, random = seeded()
    text = Text(75, random)
    monkeypatch.setattr("dcp_attention._client.plan.FRAME_BYTES", 20 * (HQ + 2 * HKV) * D * 4)
    other = client.open(name(), sequence.model)
    text.step(client, sequence, 0, 75)
    entries = [Entry(other, 0, 15), Entry(sequence, 75, 60)]
    more = [np.concatenate([letter[0, :15], letter[0, :60]]) for letter in (text.q, text.k, text.v)]
    answer = client.step(0, entries, *more)
    queries, keys, values = (widened(x[0, :15]) for x in (text.q, text.k, text.v))
    out, _ = dense(sequence.model.description.layers[0], queries, keys, values, 0)
    np.testing.assert_allclose(answer.out[:15], out, atol=2e-5)
    keys, values = (widened(np.concatenate([x[0], x[0, :60]])) for x in (text.k, text.v))
    out, _ = dense(sequence.model.description.layers[0], widened(text.q[0, :60]), keys, values, 75)
    np.testing.assert_allclose(answer.out[15:], out, atol=2e-5)


def test_forks_of_what_is_committed_and_what_is_not(client: Cluster, sequence: Sequence) -> None:
    _, random = seeded()
    text = Text(60, random)
    text.step(client, sequence, 0, 40)
    client.commit([Commit(sequence, 30)])
    beams = client.fork_many(Fork(sequence, name(), length) for length in (20, 40, 35))
    assert [client.status(beam).length for beam in beams] == [20, 40, 35]
    for beam, length in zip(beams, (20, 40, 35), strict=True):
        text.step(client, beam, length, length + 5)
    assert client.status(sequence).length == 40
    with pytest.raises(Conflict) as caught:
        client.fork_many([Fork(sequence, name(), 10), Fork(sequence, beams[0].name, 10)])
    made, refused = caught.value.answers
    assert isinstance(made, Sequence)
    assert isinstance(refused, Conflict)
    with pytest.raises(InvalidRequest, match="41"):
        client.fork(sequence, name(), 41)
    client.close_sequences([*beams, made])


def test_cuts(client: Cluster, sequence: Sequence) -> None:
    _, random = seeded()
    text = Text(60, random)
    text.step(client, sequence, 0, 50)
    client.commit([Commit(sequence, 30)])
    client.cut(sequence, 40)
    assert client.status(sequence).layers == (40, 40)
    text.step(client, sequence, 40, 45)
    client.cut_many([(sequence, 20)])
    assert (client.status(sequence).committed, client.status(sequence).length) == (20, 20)
    text.step(client, sequence, 20, 60)
    with pytest.raises(PositionMismatch):
        client.cut(sequence, 61)


def test_what_is_stored_is_found_by_its_ids(client: Cluster, sequence: Sequence, model: Model) -> None:
    _, random = seeded()
    text = Text(40, random)
    ids = random.integers(0, 1 << 32, 40, dtype=np.uint32)
    text.step(client, sequence, 0, 40)
    client.commit([Commit(sequence, 25, token_ids=ids[:25])])
    client.commit([Commit(sequence, 40, token_ids=ids[25:])])
    found = client.match(model, ids)
    assert found is not None
    assert (found.sequence_id, found.length) == (sequence.id, 40)
    assert client.match("small", [1, 2, 3]) is None
    assert client.match(model, ids, scope="another") is None
    again, length = client.open_matching(name(), model, ids, longest=39)
    assert length == 39
    text.step(client, again, 39, 40)
    with pytest.raises(Conflict):
        client.open_matching(again.name, model, ids)
    with pytest.raises(Conflict, match="has the id"):
        client.commit([Commit(sequence, 40, token_ids=ids[::-1])])
    client.close_sequences([again], keep=True)
    kept = next(known for known in client.sequences() if known.name == again.name)
    assert kept.retention.is_kept
    client.close_sequences([again.name])


def test_models_and_retention(client: Cluster, sequence: Sequence, model: Model) -> None:
    assert client.model("small") == model
    assert model in client.models()
    with pytest.raises(UnknownModel, match="There is no model `nobody`; register it"):
        client.model("nobody")
    other = ModelDescription.uniform(LAYERS + 1, query_heads=HQ, kv_heads=HKV, key_dim=D, kv_format="f32")
    with pytest.raises(ModelMismatch, match="layers: 3, not 2"):
        client.register_model("small", other)
    client.register_model("other", other)
    client.remove_model("other")
    with pytest.raises(UnknownModel):
        client.remove_model("other")
    retention = client.retain(sequence, pinned=True, priority=-3, time_to_live=60)
    assert (retention.is_pinned, retention.priority, retention.time_to_live) == (True, -3, 60)
    assert client.retain(sequence.name, pinned=False).priority == -3


def test_errors_name_value_limit_and_remedy(client: Cluster, sequence: Sequence, model: Model) -> None:
    def tensors(tokens: int, fill: float = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        q, k, v = (np.full((tokens, heads, D), fill, np.float32) for heads in (HQ, HKV, HKV))
        return q, k, v

    with pytest.raises(InvalidRequest, match="The step has no entries; give at least one"):
        client.step(0, [], *tensors(1))
    with pytest.raises(InvalidRequest, match=r"Layer 2 is outside 0\.\.<2 of model `small`"):
        client.step(2, [Entry(sequence, 0, 1)], *tensors(1))
    with pytest.raises(InvalidRequest, match="is in the step twice; join its entries"):
        client.step(0, [Entry(sequence, 0, 1), Entry(sequence, 1, 1)], *tensors(2))
    with pytest.raises(InvalidRequest, match="has 0 tokens at position 0; counts begin at 1"):
        client.step(0, [Entry(sequence, 0, 0)], *tensors(0))
    with pytest.raises(InvalidRequest, match=r"The queries are \[2, 8, 64\], but the step and its layer need \[1"):
        client.step(0, [Entry(sequence, 0, 1)], tensors(2)[0], *tensors(1)[1:])
    with pytest.raises(InvalidRequest, match=r"The step has no values; the layer needs \[1, 2, 64\]"):
        client.step(0, [Entry(sequence, 0, 1)], tensors(1)[0], tensors(1)[1])
    q, k, v = tensors(1)
    with pytest.raises(InvalidRequest, match="Keys are f32 and values f16; use one dtype for both"):
        client.step(0, [Entry(sequence, 0, 1)], q, k, v.astype(np.float16))
    with pytest.raises(InvalidRequest, match="token 0 of the step.* is NaN; correct the model's output"):
        client.step(0, [Entry(sequence, 0, 1)], *tensors(1, np.nan))
    client.step(0, [Entry(sequence, 0, 1)], *tensors(1))
    with pytest.raises(PositionMismatch, match=r"5.*1|1.*5"):
        client.step(0, [Entry(sequence, 5, 1)], *tensors(1))
    with pytest.raises(PositionMismatch):
        client.commit([Commit(sequence, 1)])
    with pytest.raises(InvalidRequest, match="A token id is -1, outside"):
        client.commit([Commit(sequence, 1, token_ids=[-1])])
    with pytest.raises(InvalidRequest, match="2 token ids are more than the 1 tokens"):
        client.commit([Commit(sequence, 1, token_ids=[1, 2])])
    with pytest.raises(ServiceError, match="255"):
        client.open("x" * 256, model)
    with pytest.raises(InvalidRequest, match=r"`name` is a text of 70000 bytes, above the limit of 65535; correct it"):
        client.open("x" * 70_000, model)
    with pytest.raises(InvalidRequest, match=r"`name` is '\\udcff', not a text that UTF-8 can hold; correct it"):
        client.open("\udcff", model)
    for length in (-1, 1 << 49, 0.5):
        number = rf"is {length}, not a whole number in 0\.\.\.\d+; correct it"
        with pytest.raises(InvalidRequest, match=f"`length` {number}"):
            client.cut(sequence, length)  # type: ignore[arg-type]
        with pytest.raises(InvalidRequest, match=f"`length` {number}"):
            client.fork(sequence, "nobody", length)  # type: ignore[arg-type]
        with pytest.raises(InvalidRequest, match=f"`length` {number}"):
            client.commit([Commit(sequence, length)])  # type: ignore[arg-type]
        with pytest.raises(InvalidRequest, match=f"`longest` {number}"):
            client.open_matching("nobody", model, [], longest=length)  # type: ignore[arg-type]
        for count in (None, 0, 1):
            with pytest.raises(InvalidRequest, match=f"`start` {number}"):
                client.token_ids(sequence, length, count)  # type: ignore[arg-type]
        with pytest.raises(InvalidRequest, match=f"`count` {number}"):
            client.token_ids(sequence, 0, length)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match=r"`priority` is 1000, not a whole number in -128\.\.\.127; correct it"):
        client.retain(sequence, priority=1000)
    with pytest.raises(InvalidRequest, match=r"`time_to_live` is -1, not a whole number in 0\.\.\.4294967295"):
        client.retain(sequence, time_to_live=-1)
    for position in (1 << 64, 1.5):
        with pytest.raises(InvalidRequest, match="An entry has 1 tokens at position .*; counts are whole numbers"):
            client.step(0, [Entry(sequence, position, 1)], *tensors(1))  # type: ignore[arg-type]
    with pytest.raises(UnknownSequence):
        client.open("nobody", create=False)
    # None of the refusals has left anything behind.
    client.step(0, [Entry(sequence, 1, 1)], *tensors(1))


def test_a_sequence_that_another_client_takes_over(
    running: dcp_support.LocalCluster, client: Cluster, sequence: Sequence
) -> None:
    _, random = seeded()
    text = Text(60, random)
    text.step(client, sequence, 0, 30)
    client.commit([Commit(sequence, 20)])
    with Cluster.connect(running.endpoint) as other:
        same = other.open(sequence.name)
        assert other.resume(same) == 30
        with pytest.raises(Claimed):
            text.step(client, sequence, 30, 31)
        with pytest.raises(Claimed):
            client.commit([Commit(sequence, 30)])
        with pytest.raises(Claimed):
            client.fork(sequence, name(), 10)
        text.step(other, same, 30, 40)
        other.commit([Commit(same, 40)])
    assert client.resume(sequence) == 40
    text.step(client, sequence, 40, 50)


def test_a_coordinator_that_is_not_there(tmp_path: object) -> None:
    with pytest.raises(Unreachable, match="The coordinator does not answer at unix:/tmp/dcp-nobody"):
        Cluster.connect("unix:/tmp/dcp-nobody", retry_for=0)
    with pytest.raises(Unreachable, match=r"did not recover within 0\.1 s"):
        Cluster.connect("unix:/tmp/dcp-nobody", retry_for=0.1)


def test_a_daemon_that_is_another(running: dcp_support.LocalCluster) -> None:
    rank = f"unix:{running.directory}/rank-0.sock"
    with pytest.raises(ServiceError, match="Expected the coordinator .* found rank 0"):
        Cluster.connect(rank, retry_for=0)


def test_topology(client: Cluster) -> None:
    topology = client.topology()
    assert topology.phase is Phase.READY
    assert topology.shape.ranks == len(topology.endpoints) == 2


def test_asyncio_runs_steps_of_different_sequences_beside_each_other(running: dcp_support.LocalCluster) -> None:
    _, random = seeded()
    texts = [Text(30, random) for _ in range(4)]

    async def converse(cluster: AsyncCluster, text: Text, sequence: Sequence) -> None:
        attention = sequence.model.description.layers[0]
        for start, end in [(0, 25), *((n, n + 1) for n in range(25, 30))]:
            for layer in range(LAYERS):
                rows = slice(start, end)
                tensors = (text.q[layer, rows], text.k[layer, rows], text.v[layer, rows])
                answer = await cluster.step(layer, [Entry(sequence, start, end - start)], *tensors)
                keys, values = widened(text.k[layer, :end]), widened(text.v[layer, :end])
                out, _ = dense(attention, widened(text.q[layer, rows]), keys, values, start)
                np.testing.assert_allclose(answer.out, out, atol=2e-5)
            await cluster.commit([Commit(sequence, end, token_ids=range(start, end))])

    async def main() -> None:
        description = ModelDescription.uniform(LAYERS, query_heads=HQ, kv_heads=HKV, key_dim=D, kv_format="f32")
        async with await AsyncCluster.connect(running.endpoint) as cluster:
            model = await cluster.register_model("small", description)
            sequences = await cluster.open_many([name() for _ in texts], model)
            await asyncio.gather(*(converse(cluster, t, s) for t, s in zip(texts, sequences, strict=True)))
            assert [progress.committed for progress in (await cluster.statuses(sequences)).values()] == [30] * 4
            rows = await cluster.rows(sequences[0], 0)
            np.testing.assert_array_equal(rows.keys, texts[0].k[0])
            found = await cluster.match(model, range(10))
            assert found is not None
            assert found.length == 10
            await cluster.close_sequences(sequences)
            with pytest.raises(UnknownSequence):
                await cluster.status(sequences[0])

    asyncio.run(main())


def test_asyncio_reaches_nobody() -> None:
    async def main() -> None:
        with pytest.raises(Unreachable):
            await AsyncCluster.connect("unix:/tmp/dcp-nobody", retry_for=0)

    asyncio.run(main())


def test_the_twin_of_the_benchmark_steps_for_each_line(client: Cluster, sequence: Sequence) -> None:
    out = io.StringIO()
    bench.run(client, sequence, 3, DType.BF16, io.StringIO("step\nstep\n"), out)
    ready, *seconds = out.getvalue().split()
    assert ready == "ready"
    assert all(float(number) > 0 for number in seconds)
    assert client.status(sequence).layers == (6, 0)


def test_blocking_and_asynchronous_clients_have_the_same_methods() -> None:
    def public(client: type[Cluster] | type[AsyncCluster]) -> dict[str, list[tuple[str, object]] | None]:
        members = ((name, getattr(client, name)) for name in dir(client) if not name.startswith("_"))
        return {
            name: [(p.name, p.default) for p in inspect.signature(member).parameters.values() if p.name != "transport"]
            if callable(member)
            else None
            for name, member in members
        }

    assert public(Cluster) == public(AsyncCluster)
