# SPDX-License-Identifier: Apache-2.0

"""Values of the client: ownership, journal, outages, what resumes a sequence. No connection, no clock."""

from __future__ import annotations

import numpy as np
import pytest
from dcp_support import seeded

from dcp_attention import (
    CacheFormat,
    Cluster,
    ClusterShape,
    Entry,
    Exchange,
    InvalidConfiguration,
    InvalidModel,
    InvalidRequest,
    LayerAttention,
    Model,
    ModelDescription,
    NotReady,
    Overloaded,
    PositionMismatch,
    Progress,
    Sequence,
    ServiceError,
    TokensLost,
)
from dcp_attention._client.journal import Chunk, Journal, joined
from dcp_attention._client.outages import Outage, Retry
from dcp_attention._client.plan import contents
from dcp_attention._client.resumption import Action, FirstUse, resumption
from dcp_attention._io.endpoint import Endpoint
from dcp_attention.model import DType


def shape(ranks: int, groups: int, interleave: int) -> ClusterShape:
    return ClusterShape(ranks, groups, interleave, 64, Exchange.ALL_TO_ALL)


@pytest.mark.parametrize(("ranks", "groups"), [(1, 1), (2, 1), (4, 1), (4, 2), (6, 3)])
@pytest.mark.parametrize("interleave", [1, 4, 64])
def test_each_token_has_one_owner_in_each_group(ranks: int, groups: int, interleave: int) -> None:
    _, random = seeded()
    cluster = shape(ranks, groups, interleave)
    for _ in range(20):
        start, count = int(random.integers(0, 300)), int(random.integers(1, 300))
        for group in range(groups):
            members = [rank for rank in range(ranks) if cluster.place(rank)[0] == group]
            owned = [cluster.owned(rank, start, count) for rank in members]
            assert sorted(np.concatenate(owned).tolist()) == list(range(count))
            for rank, tokens in zip(members, owned, strict=True):
                assert cluster.owned_count(rank, start, count) == len(tokens)
                rule = [t for t in range(count) if (start + t) // interleave % len(members) == cluster.place(rank)[1]]
                assert tokens.tolist() == rule


@pytest.mark.parametrize(("heads", "split"), [(9, [3, 2, 2, 2]), (2, [1, 1, 0, 0]), (8, [2, 2, 2, 2])])
def test_heads_are_split_in_order(heads: int, split: list[int]) -> None:
    cluster = shape(4, 1, 1)
    slices = [cluster.own_heads(rank, heads) for rank in range(4)]
    assert [len(heads) for heads in slices] == split
    assert [head for heads in slices for head in heads] == list(range(heads))
    halves = shape(4, 2, 1)
    assert [halves.own_heads(rank, 8) for rank in range(4)] == [range(2), range(2, 4), range(4, 6), range(6, 8)]
    assert [halves.group_heads(rank, 4) for rank in (0, 3)] == [range(2), range(2, 4)]


def chunk(start: int, end: int) -> Chunk:
    numbers = np.arange(start, end, dtype=np.float32).reshape(1, -1, 1)
    return Chunk(start, numbers, numbers + 0.5, DType.F32)


def positions(chunks: list[Chunk] | None) -> list[int] | None:
    return None if chunks is None else [int(x) for c in chunks for x in c.keys.ravel()]


def test_a_journal_has_what_is_not_committed() -> None:
    journal = Journal(10)
    for start, end in ((10, 14), (14, 15), (15, 20)):
        journal.appended(0, end, chunk(start, end))
    assert (journal.end(0), journal.end(1), journal.least_end(2)) == (20, 10, 10)
    assert positions(journal.missing(0, 12)) == list(range(12, 20))
    assert journal.missing(0, 20) == []
    assert journal.missing(0, 9) is None
    journal.committed(15)
    assert positions(journal.missing(0, 15)) == list(range(15, 20))
    assert journal.missing(0, 14) is None
    journal.cut(17)
    assert positions(journal.missing(0, 15)) == [15, 16]
    assert journal.end(0) == 17


def test_a_fork_has_its_parents_chunks_and_goes_its_own_way() -> None:
    journal = Journal(0)
    journal.appended(0, 5, chunk(0, 5))
    fork = journal.forked(3)
    assert (fork.end(0), positions(fork.missing(0, 0))) == (3, [0, 1, 2])
    fork.appended(0, 4, chunk(3, 4))
    journal.committed(5)
    assert positions(fork.missing(0, 1)) == [1, 2, 3]


def test_a_step_that_left_nothing_cannot_be_undone() -> None:
    journal = Journal(0)
    journal.appended(0, 5, None)
    assert journal.missing(0, 0) is None
    assert journal.missing(0, 5) == []


def held(chunks: list[Chunk] | None) -> int:
    """The tokens that the memory of some chunks has room for."""
    wholes = {id(c.keys.base): c.keys.base for c in chunks or [] if c.keys.base is not None}
    own = [c.keys for c in chunks or [] if c.keys.base is None]
    return sum(int(whole.size) for whole in [*wholes.values(), *own])


def owned(start: int, end: int) -> Chunk:
    numbers = np.arange(start, end, dtype=np.float32)[None, :, None].copy()
    return Chunk(start, numbers, numbers + 0.5, DType.F32)


def test_a_journal_takes_no_more_than_twice_what_it_has() -> None:
    for tokens in range(1, 100):
        journal = Journal(0)
        journal.appended(0, 100, owned(0, 100))
        fork = journal.forked(tokens)
        assert positions(fork.missing(0, 0)) == list(range(tokens))
        journal.committed(100 - tokens)
        assert positions(journal.missing(0, 100 - tokens)) == list(range(100 - tokens, 100))
        for some in (fork._chunks[0], journal._chunks[0]):
            assert held(some) <= 2 * tokens
            assert all(c.values is not None and (c.values == c.keys + 0.5).all() for c in some)


def test_a_sequence_of_a_batch_keeps_its_own_tokens_alone() -> None:
    for heads in (1, 2):
        model = Model(1, "m", ModelDescription.uniform(1, query_heads=2, kv_heads=heads, key_dim=8))
        rows = np.arange(64 * heads * 8, dtype=np.float32).reshape(64, heads, 8)
        entries = [Entry(Sequence(number, "s", model), 5, 2) for number in range(32)]
        for index, part in enumerate(contents(0, entries, None, rows, -rows, keeps=True).chunks()):
            np.testing.assert_array_equal(part.keys.transpose(1, 0, 2), rows[2 * index : 2 * index + 2])
            assert part.values is not None
            np.testing.assert_array_equal(part.values, -part.keys)
            assert (part.position, part.keys.base, part.values.base) == (5, None, None)


def test_one_layer_is_cut_by_itself() -> None:
    journal = Journal(3)
    for layer in (0, 1):
        journal.appended(layer, 8, chunk(3, 8))
    journal.cut_layer(1, 5)
    journal.cut_layer(2, 5)
    assert [journal.end(layer) for layer in range(3)] == [8, 5, 3]
    assert positions(journal.missing(1, 3)) == [3, 4]


def test_chunks_are_joined_up_to_a_size() -> None:
    parts = joined([chunk(0, 3), chunk(3, 4), chunk(4, 14)], 6)
    assert [(part.position, part.end) for part in parts] == [(0, 4), (4, 10), (10, 14)]
    assert positions(parts) == list(range(14))
    assert all(part.values is not None and (part.values == part.keys + 0.5).all() for part in parts)


def test_an_outage_is_waited_out_with_growing_pauses() -> None:
    outage = Outage(10)
    assert outage.failed(NotReady(""), 100) == Retry(0, True, 10)
    assert outage.failed(Overloaded(""), 101) == Retry(0.01, False, 8.99)
    pauses = [outage.failed(Overloaded(""), 102).after for _ in range(9)]
    assert pauses[:3] == [0.02, 0.04, 0.08]
    assert max(pauses) == 0.5
    with pytest.raises(Overloaded, match="did not recover within 10 s; raise retry_for"):
        outage.failed(Overloaded("Full."), 110)


def test_what_is_not_retryable_is_the_callers() -> None:
    with pytest.raises(PositionMismatch):
        Outage(10).failed(PositionMismatch(""), 0)
    with pytest.raises(NotReady):
        Outage(0).failed(NotReady(""), 0)


def progress(committed: int, most: int, *layers: int, uneven: bool = False) -> Progress:
    return Progress(committed, most, layers, uneven, 0, ())


@pytest.mark.parametrize(
    ("there", "at_most", "expected"),
    [
        (progress(5, 5, 8, 8), None, (Action.SETTLED, 8)),
        (progress(5, 5, 9, 8), None, (Action.REWIND, 8)),
        (progress(5, 5, 8, 8, uneven=True), None, (Action.REWIND, 8)),
        (progress(5, 5, 8, 8), 6, (Action.REWIND, 6)),
        (progress(5, 5, 8, 8), 0, (Action.REWIND, 5)),
        (progress(5, 7, 8, 8), 6, (Action.REWIND, 7)),
        (progress(5, 7, 6, 6), None, (Action.TRUNCATE, 5)),
    ],
)
def test_what_makes_ranks_agree(there: Progress, at_most: int | None, expected: tuple[Action, int]) -> None:
    assert resumption(there, at_most) == expected


@pytest.mark.parametrize(
    ("there", "is_explained"),
    [
        (progress(5, 5, 8, 8), True),
        (progress(5, 5, 8, 10), True),
        (progress(0, 0, 0, 0), True),
        (progress(5, 10, 8, 10), True),  # its commit has reached a rank
        (progress(5, 9, 8, 10), False),
        (progress(5, 5, 10, 8), False),
        (progress(5, 5, 8, 9), False),
        (progress(5, 5, 8, 12), False),
        (progress(5, 5, 9, 10), False),
    ],
)
def test_what_a_first_step_explains(there: Progress, is_explained: bool) -> None:
    assert FirstUse(8, layer=1, end=10, committed=10).explains(there) is is_explained


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "`` is not an endpoint; write unix:PATH or tcp:HOST:PORT"),
        ("tcp:host", "`tcp:host` is not an endpoint"),
        ("tcp:host:65536", "`tcp:host:65536` is not an endpoint"),
        ("unix:" + "x" * 108, "has 108 bytes, outside 1...107"),
    ],
)
def test_what_is_no_endpoint(text: str, message: str) -> None:
    with pytest.raises(InvalidConfiguration, match=message):
        Endpoint.of(text)


def test_plain_tcp_stays_on_the_machine() -> None:
    Endpoint.of("tcp:127.0.0.1:1").check_plain()
    Endpoint.of("tcp:[::1]:1").check_plain()
    for text in ("tcp:localhost:1", "tcp:10.0.0.1:1"):
        with pytest.raises(InvalidConfiguration, match="is not a loopback address"):
            Endpoint.of(text).check_plain()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"query_heads": 0}, "0 query heads are outside 1...1024"),
        ({"kv_heads": 3}, "3 KV heads do not divide 8 query heads"),
        ({"key_dim": 7}, "key head dimension 7 is not an even number in 8...576; pad"),
        ({"value_dim": 514}, "value head dimension 514 is not an even number in 8...512"),
        ({"scale": -1.0}, "The scale -1.0 is not a positive finite number"),
        ({"softcap": float("inf")}, "The soft cap inf is not a positive finite number"),
        ({"window": 0}, "A window of 0 tokens is outside"),
        ({"value_dim": 128, "leading_values": True}, "the first 128 dimensions of keys that have 64"),
    ],
)
def test_a_layer_that_cannot_be(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidModel, match=message):
        LayerAttention(**{"query_heads": 8, "kv_heads": 4, "key_dim": 64, **changes})  # type: ignore[arg-type]


def test_a_description_that_cannot_be() -> None:
    layer = LayerAttention(query_heads=2, kv_heads=1, key_dim=8, has_sinks=True)
    with pytest.raises(InvalidModel, match="Layer 0 has 0 sinks, its attention 2"):
        ModelDescription((layer,))
    with pytest.raises(InvalidModel, match="A sink of layer 0 is NaN or infinite"):
        ModelDescription((layer,), sinks=((0.0, float("nan")),))
    with pytest.raises(InvalidModel, match=r"0 layers are outside 1\.\.\.1024"):
        ModelDescription(())
    with pytest.raises(InvalidModel, match=r"A revision of 256 bytes is outside 1\.\.\.255"):
        ModelDescription.uniform(1, query_heads=1, kv_heads=1, key_dim=8, revision="x" * 256)
    with pytest.raises(InvalidModel, match="`int4` is no cache format; use bf16, f16, f32, int8 or fp8"):
        ModelDescription.uniform(1, query_heads=1, kv_heads=1, key_dim=8, kv_format="int4")
    with pytest.raises(InvalidModel, match="The cache format is <DType.F32: 3>; give a CacheFormat, such as Cache"):
        ModelDescription.uniform(1, query_heads=1, kv_heads=1, key_dim=8, kv_format=DType.F32)  # type: ignore[arg-type]


@pytest.mark.parametrize("kv_format", [CacheFormat.INT8, CacheFormat.FP8])
def test_what_a_cache_of_bytes_keeps(kv_format: CacheFormat) -> None:
    name = kv_format.name.lower()
    description = ModelDescription.uniform(3, query_heads=8, kv_heads=2, key_dim=64, value_dim=32, kv_format=name)
    assert description.kv_format is CacheFormat.named(name) is kv_format
    assert kv_format.row_type is DType.F32
    beside = 12 if kv_format is CacheFormat.INT8 else 8
    assert (description.kept_bytes, description.row_bytes) == (3 * 2 * (64 + 32 + beside), 3 * 2 * 96 * 4)
    fine = LayerAttention(query_heads=4, kv_heads=2, key_dim=64)
    odd = LayerAttention(query_heads=4, kv_heads=2, key_dim=64, value_dim=10)
    with pytest.raises(InvalidModel, match=rf"{name} cannot keep layer 1, of dimensions 64 and 10.*multiples of 4"):
        ModelDescription((fine, odd), kv_format)
    latent = LayerAttention(query_heads=4, kv_heads=1, key_dim=64, value_dim=32, leading_values=True)
    with pytest.raises(InvalidModel, match=rf"{name} cannot keep layer 0, whose values are the first 32 dimensions"):
        ModelDescription((latent,), kv_format)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "`model_type` is missing"),
        ({"model_type": "bloom"}, r"adds a bias to every score that grows with the distance \(ALiBi\)"),
        ({"model_type": "nobody"}, "`nobody`, which is not supported; supported types are deepseek_v2"),
        ({"model_type": "llama", "num_hidden_layers": 2}, "`num_attention_heads` is missing"),
        ({"model_type": "llama", "num_hidden_layers": "2"}, "`num_hidden_layers` is `2`, not a whole number"),
        (
            {"model_type": "llama", "num_hidden_layers": 2, "num_attention_heads": 3, "hidden_size": 64},
            "`hidden_size` is 64, which 3 query heads do not divide",
        ),
        (
            {
                "model_type": "gemma2",
                "num_hidden_layers": 2,
                "num_attention_heads": 8,
                "layer_types": ["full_attention"],
            },
            "`layer_types` has 1 items for 2 layers",
        ),
        (
            {"model_type": "gemma2", "num_hidden_layers": 1, "num_attention_heads": 8, "layer_types": ["chunked"]},
            "`layer_types` has `chunked` at layer 0, which cannot be served",
        ),
        (
            {"model_type": "gpt_oss", "num_hidden_layers": 2, "num_attention_heads": 8, "hidden_size": 512},
            "Layer 0 of `gpt_oss` has a sink for each query head",
        ),
    ],
)
def test_a_configuration_that_cannot_be_served(config: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidModel, match=message):
        ModelDescription.from_transformers(config)


def test_errors_are_of_their_codes_classes() -> None:
    error = ServiceError.of(7, "No.", 3)
    assert isinstance(error, PositionMismatch)
    assert (str(error), error.rank, error.is_retryable) == ("position mismatch (rank 3): No.", 3, False)


def test_lost_tokens_are_a_position_mismatch_with_a_name() -> None:
    error = TokensLost("Gone.", sequence="s", length=3)
    assert isinstance(error, PositionMismatch)
    assert (str(error), error.number, error.length) == ("tokens lost: Gone.", 7, 3)
    assert type(ServiceError.of(7, "No.")) is PositionMismatch


@pytest.mark.parametrize("name", ["timeout", "step_timeout", "retry_for"])
@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), 1e12])
def test_a_time_that_cannot_be(name: str, seconds: float) -> None:
    if name == "retry_for" and seconds > 0:
        return  # for as long as it takes
    with pytest.raises(InvalidRequest, match=rf"`{name}` is .* s, outside 0\.\.\..*; correct it"):
        Cluster.connect("unix:/nobody", **{name: seconds})  # type: ignore[arg-type]


def test_a_revision_that_is_no_text() -> None:
    with pytest.raises(InvalidModel, match=r"The revision '\\udcff' is no text that UTF-8 can hold"):
        ModelDescription.uniform(1, query_heads=1, kv_heads=1, key_dim=8, revision="\udcff")
