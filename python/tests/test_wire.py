# SPDX-License-Identifier: Apache-2.0

"""The codec against frames that the daemons' own codec has encoded (Tests/Fixtures/wire-frames.json)."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest
from dcp_support import FIXTURES

from dcp_attention import Exchange, Incompatible, ProtocolViolation, ServiceError, StoreFull
from dcp_attention._wire import requests
from dcp_attention._wire.codec import FAILURE, Reader
from dcp_attention._wire.frame import FrameReader, Tag, encode, frames
from dcp_attention._wire.records import SequenceRecord, decoded, encoded
from dcp_attention._wire.requests import HELLO, REPLY_BIT, REQUESTS, Many, Request
from dcp_attention._wire.tensors import ROWS_TYPE, STEP_TYPE, RowsReply, RowsRequest, StepFields, StepResult
from dcp_attention.model import CacheFormat, DType
from dcp_attention.values import Phase

SAMPLES: list[dict[str, Any]] = json.loads((FIXTURES / "wire-frames.json").read_text())
# What only daemons ask, or answer to `dcpctl` alone.
OTHERS = {0x010C, 0x0110, 0x0111, 0x0205, 0x0206, 0x0300, 0x0301, 0x0302}


def known() -> dict[int, Request[Any, Any]]:
    """The requests of this client, by their numbers."""
    return {kind.type: kind.request if isinstance(kind, Many) else kind for kind in REQUESTS}


def sampled(type: int) -> list[bytes]:
    """All samples of a frame type."""
    return [bytes.fromhex(sample["frame"]) for sample in SAMPLES if sample["type"] == type]


def values(type: int) -> list[Any]:
    """What the samples of a request or a reply say."""
    codec = known()[type & ~REPLY_BIT]
    return [
        (codec.reply if type & REPLY_BIT else codec.fields).read(Reader(frame.fields))
        for data in sampled(type)
        for frame in frames(data)
    ]


def test_every_request_that_a_client_may_send_is_known() -> None:
    sampled_types = {sample["type"] & ~REPLY_BIT for sample in SAMPLES if sample["type"] >= 0x0100}
    assert sampled_types - OTHERS == set(known()) | {STEP_TYPE, ROWS_TYPE}


@pytest.mark.parametrize("type", sorted(set(known()) | {type | REPLY_BIT for type in known()}))
def test_a_request_and_its_reply_come_back_byte_by_byte(type: int) -> None:
    codec = known()[type & ~REPLY_BIT]
    fields = codec.reply if type & REPLY_BIT else codec.fields
    assert sampled(type)
    for data in sampled(type):
        (frame,) = frames(data)
        reader = frame.reader()
        value = fields.read(reader)
        reader.end()
        again = bytearray()
        fields.write(again, value)
        assert bytes(again) == bytes(frame.fields)


def test_the_header_is_that_of_the_daemons() -> None:
    for sample in SAMPLES:
        data = bytes.fromhex(sample["frame"])
        (frame,) = frames(data)
        assert frame.type == sample["type"]
        assert (frame.epoch, frame.tag, frame.sender) == (6, Tag(0xABCD, 17, 2), 1)
        encoded = encode(frame.type, frame.epoch, frame.tag, bytes(frame.fields), [frame.payload])
        again = b"".join(encoded.pieces)
        assert encoded.size == len(again)
        # The sender, a rank here, and the header's checksum differ.
        assert again[:36] + again[38:60] + again[64:] == data[:36] + data[38:60] + data[64:]


def test_what_the_fields_mean() -> None:
    """One sample of each record whose fields could be mistaken for each other; round trips would not tell."""
    (status,) = values(0x8202)[0]
    assert (status.sequence, status.committed, status.local_tokens, status.claim) == (1, 9, 3, 6)
    assert (status.intact, status.token_ids, status.layers) == (8, 9, (9, 10, 11))
    opened, refusal = values(0x8104)[0]
    assert opened.sequence == SequenceRecord(11, "chat", 7, "tenant")
    assert (opened.model.id, opened.model.name) == (7, "smöl")
    (kind,) = opened.model.description.kinds
    assert (kind.query_heads, kind.kv_heads, kind.key_dim, kind.value_dim) == (9, 3, 64, 32)
    assert (kind.scale, kind.softcap, opened.model.description.kv_format) == (0.125, 30, CacheFormat.BF16)
    described = [request.description for request in values(0x0101)[0]]
    assert [one.kv_format for one in described] == [CacheFormat.F32, CacheFormat.INT8, CacheFormat.FP8]
    assert (refusal.name, refusal.message) == ("unknown sequence", "No.")
    matched, _ = values(0x810B)[0]
    assert (matched.length, matched.claim) == (2, 9)
    assert values(0x010B)[0][0] == requests.OpenMatching("s", "m", "r", "tenant", (5, 6, 0xFFFF_FFFF), 2)
    assert values(0x0104)[0][0] == requests.OpenSequence("s", "m", "r", "tenant", True)
    assert values(0x0107)[0] == (requests.ForkSequence("s", "t", 2, 9),)
    assert values(0x0108)[0] == (requests.TruncateSequence("s", 3, 9),)
    assert values(0x0109)[0] == (requests.CloseSequence("s", 9, True),)
    assert values(0x010A)[0][1] == requests.RetainSequence("s", False, -128, 0xFFFF_FFFF)
    assert values(0x0106)[0] == (requests.ClaimSequence(4, 8),)
    assert values(0x0203)[0] == (requests.CutUncommitted(1, 4, 8),)
    assert values(0x0207)[0] == requests.MatchTokens(3, "tenant", (1, 2, 3), (8,), "r")
    assert values(0x0208)[0] == requests.ReadTokens(1, 5, 7, True)
    started = requests.StartedIDs(7, (1, 0xFFFF_FFFF, 3))
    assert values(0x0201)[1] == (
        requests.CommitPart(1, 10, 3, started, b"\x01\x02"),
        requests.CommitPart(2, 0, 0, None, b""),
    )
    retention = values(0x810A)[0][0]
    assert (retention.is_pinned, retention.is_kept, retention.priority, retention.time_to_live) == (
        True,
        True,
        -3,
        86400,
    )
    (topology,) = values(0x8100)
    assert (topology.epoch, topology.phase, topology.lease_milliseconds) == (9, Phase.READY, 5000)
    assert topology.endpoints == ("unix:/run/0",)


def test_greetings_and_failures() -> None:
    client = next(HELLO.read(frame.reader()) for data in sampled(1)[1:] for frame in frames(data))
    assert (client.role, client.rank, client.fingerprint, client.layout, client.release) == (1, None, 0, "", "9.9")
    (welcome,) = (HELLO.read(frame.reader()) for data in sampled(2) for frame in frames(data))
    assert (welcome.role, welcome.rank) == (3, None)
    assert welcome.layout
    failures = [FAILURE.read(frame.reader()) for data in sampled(3) for frame in frames(data)]
    assert (failures[0].name, failures[0].message, failures[0].rank) == ("overloaded", "Too much \u2013 wait.", 2)
    assert (failures[1].number, failures[1].is_retryable, str(failures[1])) == (4711, False, "error 4711: ")
    assert isinstance(ServiceError.of(106, ""), StoreFull)
    assert ServiceError.of(150, "").is_retryable


def test_a_topology_of_a_cluster_that_is_not_complete() -> None:
    (frame,) = frames(sampled(13)[0])
    topology = known()[0x0100].reply.read(frame.reader())
    assert (topology.phase, topology.reason) == (Phase.INCOMPLETE, "rank 2 missing (gone)")
    shape = topology.shape
    assert (shape.ranks, shape.head_groups, shape.interleave, shape.block_tokens) == (4, 2, 16, 64)
    assert shape.exchange is Exchange.ALL_GATHER_REDUCE_SCATTER
    assert topology.endpoints == ("unix:/run/0", "unix:/run/1", None, "unix:/run/3")


def test_a_step_and_its_result() -> None:
    (frame,) = frames(sampled(STEP_TYPE)[0])
    step = StepFields.decoded(frame.fields)
    assert step.encoded() == bytes(frame.fields)
    assert step.entries == ((1, 40, 1, 0), (2, 0, 2, 0))
    assert (step.model, step.query_mode, step.appends, step.wants_lse) == (7, 2, True, True)
    assert (step.timeout_milliseconds, step.query_dtype, step.kv_dtype) == (2500, DType.F32, DType.BF16)
    assert (step.query_heads, step.kv_heads, step.key_dim, step.value_dim, step.kv_tokens) == (2, 1, 8, 6, 3)
    with_lse, without = (StepResult.of(frame) for data in sampled(STEP_TYPE | REPLY_BIT) for frame in frames(data))
    assert with_lse.outputs.shape == (3, 2, 4)
    assert with_lse.lse is not None
    assert with_lse.lse.shape == (3, 2)
    assert without.lse is None
    assert with_lse.outputs.tobytes() == bytes(range(96))


def test_what_a_step_commits() -> None:
    steps = [StepFields.decoded(next(iter(frames(data))).fields) for data in sampled(STEP_TYPE)]
    for data, step in zip(sampled(STEP_TYPE), steps, strict=True):
        (frame,) = frames(data)
        assert step.encoded() == bytes(frame.fields)
    ((first, second),) = [step.commits for step in steps if step.commits]
    assert (first.sequence, first.length, first.claim) == (1, 41, 1 << 32 | 5)
    assert first.tokens is not None
    assert (first.tokens.start, first.tokens.ids) == (40, (17,))
    assert (second.sequence, second.length, second.tokens, second.annotation) == (2, 2, None, b"\x01\x02")


def test_rows() -> None:
    for data in sampled(ROWS_TYPE):
        (frame,) = frames(data)
        assert RowsRequest.decoded(frame.fields).encoded() == bytes(frame.fields)
    replies = [RowsReply.of(frame) for data in sampled(ROWS_TYPE | REPLY_BIT) for frame in frames(data)]
    assert replies
    for data, reply in zip(sampled(ROWS_TYPE | REPLY_BIT), replies, strict=True):
        (frame,) = frames(data)
        assert reply.encoded() == bytes(frame.fields)
        assert reply.keys.tobytes() + reply.values.tobytes() == frame.payload.tobytes()


def test_frames_come_whole_however_the_bytes_come() -> None:
    data = b"".join(bytes.fromhex(sample["frame"]) for sample in SAMPLES)
    expected = [(frame.type, bytes(frame.fields), frame.payload.tobytes()) for frame in frames(data)]
    reader = FrameReader("the peer")
    found = []
    for byte in data:
        reader.buffer()[:1] = bytes([byte])
        frame = reader.received(1)
        if frame is not None:
            found.append((frame.type, bytes(frame.fields), frame.payload.tobytes()))
    assert found == expected
    assert reader.is_between_frames


def test_damage_is_noticed_at_every_byte() -> None:
    data = bytes.fromhex(SAMPLES[1]["frame"])
    for index in range(len(data)):
        damaged = data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :]
        with pytest.raises((ProtocolViolation, Incompatible)):
            list(frames(damaged))


def test_a_stranger_is_named() -> None:
    with pytest.raises(ProtocolViolation, match=r"the peer .* HTTP"):
        list(frames(b"HTTP/1.1 400 Bad Request\r\n"))


def test_a_count_that_the_bytes_cannot_hold_is_refused_before_anything_is_allocated() -> None:
    with pytest.raises(ProtocolViolation, match="4294967295 values"):
        known()[0x0103].reply.read(Reader(b"\xff\xff\xff\xff"))


def test_layers_are_counted_before_they_are_made() -> None:
    from dcp_attention import InvalidModel

    kind = struct.pack("<HHHHffBBBBI", 2, 1, 16, 16, 0.25, 0, 0, 0, 0, 0, 0)
    run = struct.pack("<HH", 0, 65535)
    with pytest.raises(InvalidModel, match="more than 1024 layers"):
        decoded(struct.pack("<BBBH", 1, 1, 0, 1) + kind + struct.pack("<H", 65535) + run * 65535)


def test_descriptions_are_those_of_the_daemons() -> None:
    import base64

    from dcp_attention import InvalidModel, ModelDescription

    descriptions: dict[str, str | None] = json.loads((FIXTURES / "model-descriptions.json").read_text())
    assert len(descriptions) > 15
    sinks = {layer: [layer * 100.0 + head for head in range(64)] for layer in range(36)}
    for name, expected in descriptions.items():
        path = FIXTURES / "model-configs" / name
        if expected is None:
            with pytest.raises(InvalidModel, match="cannot be served"):
                ModelDescription.from_transformers(path, sinks=sinks)
            continue
        description = ModelDescription.from_transformers(path, sinks=sinks)
        assert encoded(description) == base64.b64decode(expected), name
        assert decoded(base64.b64decode(expected)) == description
        # As a configuration object and a mapping have it, too.
        assert ModelDescription.from_transformers(json.loads(path.read_text()), sinks=sinks) == description


def test_payloads_are_aligned() -> None:
    fields = b"\1" * 10
    encoded = encode(STEP_TYPE, 1, Tag(1, 1), fields, [np.arange(4, dtype=np.float32)])
    (frame,) = frames(b"".join(encoded.pieces))
    assert frame.payload.ctypes.data % 4 == 0
