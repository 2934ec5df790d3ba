# SPDX-License-Identifier: Apache-2.0

"""Records that occur in several frames: models, sequences, shapes, topologies."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from dcp_attention._wire.codec import (
    BOOL,
    I8,
    STRING,
    U8,
    U16,
    U32,
    U64,
    Reader,
    Record,
)
from dcp_attention.errors import InvalidModel, ProtocolViolation
from dcp_attention.model import LAYERS_MAX, CacheFormat, LayerAttention, ModelDescription
from dcp_attention.shape import ClusterShape, Exchange
from dcp_attention.values import Model, Phase, Retention, Topology

DESCRIPTION_FORMAT = 1
_KIND = struct.Struct("<HHHHffBBBBI")


def encoded(description: ModelDescription) -> bytes:
    """The one form of a model's description in bytes, which stores and sequence files have, too."""
    revision = (description.revision or "").encode()
    data = bytearray((DESCRIPTION_FORMAT, description.kv_format, len(revision)))
    data += revision
    U16.write(data, len(description.kinds))
    for kind in description.kinds:
        data += _KIND.pack(
            kind.query_heads,
            kind.kv_heads,
            kind.key_dim,
            kind.value_dim,
            kind.scale,
            kind.softcap or 0,
            kind.leading_values,
            kind.has_sinks,
            kind.window is not None,
            0,
            kind.window or 0,
        )
    U16.write(data, len(description.runs))
    for kind_index, count in description.runs:
        data += struct.pack("<HH", kind_index, count)
    for logits in description.sinks:
        data += struct.pack(f"<{len(logits)}f", *logits)
    return bytes(data)


def decoded(data: bytes | memoryview) -> ModelDescription:
    """The description of some bytes.

    Raises:
        InvalidModel: They are of another format, or damaged.
    """
    try:
        description = _decoded(Reader(data))
    except (ProtocolViolation, ValueError, IndexError) as error:
        if isinstance(error, InvalidModel):
            raise
        raise InvalidModel(f"The bytes of a model's description are damaged: {error}") from error
    if encoded(description) != bytes(data):
        raise InvalidModel("The bytes of a model's description are another form of a valid description.")
    return description


def _decoded(reader: Reader) -> ModelDescription:
    form = U8.read(reader)
    if form != DESCRIPTION_FORMAT:
        raise InvalidModel(
            f"A model's description has format {form}, this program reads {DESCRIPTION_FORMAT}; use programs of one "
            "version everywhere."
        )
    kv_format = CacheFormat(U8.read(reader))
    revision = str(reader.take(U8.read(reader)), "utf-8")
    kinds = [_kind(reader) for _ in range(U16.read(reader))]
    layers: list[LayerAttention] = []
    for _ in range(U16.read(reader)):
        index, count = U16.read(reader), U16.read(reader)
        if len(layers) + count > LAYERS_MAX:
            raise InvalidModel(f"A model's description has more than {LAYERS_MAX} layers; correct the model.")
        layers += [kinds[index]] * count
    sinks = [
        struct.unpack(f"<{kind.query_heads}f", reader.take(4 * kind.query_heads)) if kind.has_sinks else ()
        for kind in layers
    ]
    reader.end()
    return ModelDescription(tuple(layers), kv_format, tuple(sinks), revision or None)


def _kind(reader: Reader) -> LayerAttention:
    heads, kv_heads, key_dim, value_dim, scale, softcap, leading, sinks, visibility, _, window = _KIND.unpack(
        reader.take(_KIND.size)
    )
    return LayerAttention(
        query_heads=heads,
        kv_heads=kv_heads,
        key_dim=key_dim,
        value_dim=value_dim,
        scale=scale,
        softcap=softcap or None,
        window=window if visibility else None,
        has_sinks=bool(sinks),
        leading_values=bool(leading),
    )


class _Description:
    """A byte count, and a model's description."""

    least = 39

    def write(self, to: bytearray, value: ModelDescription) -> None:
        data = encoded(value)
        U32.write(to, len(data))
        to += data

    def read(self, reader: Reader) -> ModelDescription:
        return decoded(reader.take(U32.read(reader)))


@dataclass(frozen=True, slots=True)
class SequenceRecord:
    """A sequence as the directory keeps it."""

    id: int
    name: str
    model: int
    scope: str = ""


DESCRIPTION = _Description()
MODEL: Record[Model] = Record(Model, id=U32, name=STRING, description=DESCRIPTION)
SEQUENCE: Record[SequenceRecord] = Record(SequenceRecord, id=U64, name=STRING, model=U32, scope=STRING)
RETENTION: Record[Retention] = Record(Retention, is_pinned=BOOL, is_kept=BOOL, priority=I8, time_to_live=U32)


class _Shape:
    least = 13

    def write(self, to: bytearray, value: ClusterShape) -> None:
        to += struct.pack(
            "<HHIIB", value.ranks, value.head_groups, value.interleave, value.block_tokens, value.exchange
        )

    def read(self, reader: Reader) -> ClusterShape:
        ranks, groups, interleave, block, exchange = struct.unpack("<HHIIB", reader.take(13))
        if not (1 <= groups <= ranks <= 1024 and ranks % groups == 0 and interleave >= 1 and exchange in (1, 2)):
            raise ProtocolViolation(f"A frame has {ranks} ranks in {groups} groups, interleave {interleave}.")
        return ClusterShape(ranks, groups, interleave, block, Exchange(exchange))


class _Members:
    """All ranks in order: the rank, whether it is registered, and its endpoint if it is."""

    least = 4

    def write(self, to: bytearray, value: tuple[str | None, ...]) -> None:
        U32.write(to, len(value))
        for rank, endpoint in enumerate(value):
            U16.write(to, rank)
            BOOL.write(to, endpoint is not None)
            if endpoint is not None:
                STRING.write(to, endpoint)

    def read(self, reader: Reader) -> tuple[str | None, ...]:
        endpoints: list[str | None] = []
        for index in range(U32.read(reader)):
            if (rank := U16.read(reader)) != index:
                raise ProtocolViolation(f"A topology has rank {rank} in the place of rank {index}.")
            endpoints.append(STRING.read(reader) if BOOL.read(reader) else None)
        return tuple(endpoints)


class _Phase:
    least = 1

    def write(self, to: bytearray, value: Phase) -> None:
        U8.write(to, value)

    def read(self, reader: Reader) -> Phase:
        value = U8.read(reader)
        if value not in (1, 2, 3):
            raise ProtocolViolation(f"A topology has the phase {value}.")
        return Phase(value)


TOPOLOGY: Record[Topology] = Record(
    Topology,
    epoch=U64,
    phase=_Phase(),
    reason=STRING,
    shape=_Shape(),
    lease_milliseconds=U32,
    endpoints=_Members(),
    cluster=U64,
)


@dataclass(frozen=True, slots=True)
class ListedSequence:
    """A sequence and its retention."""

    record: SequenceRecord
    retention: Retention


@dataclass(frozen=True, slots=True)
class ListSequences:
    """A page of the sequences whose names begin with something, after a number."""

    prefix: str
    after: int
    count: int


@dataclass(frozen=True, slots=True)
class Listing:
    """A page of sequences, with their models.

    `next` is the number behind which the next page begins, 0 when there is none; `directory_count` says how many there
    are of any name.
    """

    models: tuple[Model, ...]
    sequences: tuple[ListedSequence, ...]
    next: int
    directory_count: int
