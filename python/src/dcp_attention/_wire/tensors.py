# SPDX-License-Identifier: Apache-2.0

"""Frames with tensors: steps, and keys and values read back. Their fields are packed in one call."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dcp_attention._wire.codec import LENGTH_MAX, Reader
from dcp_attention._wire.frame import Frame
from dcp_attention._wire.requests import COMMIT, CommitPart
from dcp_attention.errors import InvalidRequest, ProtocolViolation
from dcp_attention.model import DType

STEP_TYPE = 0x0200
ROWS_TYPE = 0x0204
ENTRIES_MAX = 4096
TOKENS_MAX = 1 << 20

QUERIES_ABSENT = 3

_STEP = struct.Struct("<IBBBIBBHHHHI")
_ENTRY = struct.Struct("<QQIQ")
_RESULT = struct.Struct("<IHHBB")
_ROWS = struct.Struct("<QIQI")
_ROWS_REPLY = struct.Struct("<QIBHHH")
_COUNT = struct.Struct("<I")
_F32 = np.dtype("<f4")

NUMPY_DTYPES: dict[DType, np.dtype[Any]] = {
    DType.BF16: np.dtype("<u2"),
    DType.F16: np.dtype("<f2"),
    DType.F32: _F32,
}


class StepFields(NamedTuple):
    """A step as one rank receives it, without its tensors.

    ``query_mode`` is 1 for gather, 2 for replicate, 3 for a step without queries; entries are sequence, position,
    count and claim; ``commits`` is what the rank commits when it has the tokens.
    """

    model: int
    query_mode: int
    appends: bool
    wants_lse: bool
    timeout_milliseconds: int
    query_dtype: DType
    kv_dtype: DType
    query_heads: int
    kv_heads: int
    key_dim: int
    value_dim: int
    kv_tokens: int
    entries: tuple[tuple[int, int, int, int], ...]
    commits: tuple[CommitPart, ...] = ()

    def encoded(self) -> bytes:
        """The fields."""
        head = _STEP.pack(
            self.model,
            self.query_mode,
            self.appends,
            self.wants_lse,
            self.timeout_milliseconds,
            self.query_dtype,
            self.kv_dtype,
            self.query_heads,
            self.kv_heads,
            self.key_dim,
            self.value_dim,
            self.kv_tokens,
        )
        fields = bytearray(head)
        fields += _COUNT.pack(len(self.entries))
        try:
            for entry in self.entries:
                fields += _ENTRY.pack(*entry)
        except struct.error:
            _, position, count, _ = entry
            raise InvalidRequest(
                f"An entry has {count!r} tokens at position {position!r}; counts are whole numbers up to {TOKENS_MAX}, "
                f"and positions up to {LENGTH_MAX}."
            ) from None
        COMMIT.fields.write(fields, self.commits)
        return bytes(fields)

    @staticmethod
    def decoded(data: memoryview) -> StepFields:
        """The fields of a frame, for tests and recordings."""
        head = _STEP.unpack_from(data)
        (count,) = _COUNT.unpack_from(data, _STEP.size)
        start = _STEP.size + _COUNT.size
        end = start + count * _ENTRY.size
        if len(data) < end:
            raise ProtocolViolation(f"A step counts {count} entries and has {len(data) - start} bytes of them.")
        entries = tuple(_ENTRY.iter_unpack(data[start:end]))
        reader = Reader(data[end:])
        commits = COMMIT.fields.read(reader)
        reader.end()
        model, mode, appends, lse, timeout, query_dtype, kv_dtype, heads, kv_heads, key_dim, value_dim, tokens = head
        return StepFields(
            model,
            mode,
            bool(appends),
            bool(lse),
            timeout,
            DType(query_dtype),
            DType(kv_dtype),
            heads,
            kv_heads,
            key_dim,
            value_dim,
            tokens,
            entries,
            commits,
        )


class StepResult(NamedTuple):
    """A rank's answer: outputs ``[heads, tokens, Dv]`` and log-sum-exps ``[heads, tokens]`` of its own heads."""

    tokens: int
    heads: int
    value_dim: int
    outputs: npt.NDArray[np.float32]
    lse: npt.NDArray[np.float32] | None

    @staticmethod
    def of(frame: Frame) -> StepResult:
        """The result in a frame.

        Raises:
            ProtocolViolation: Its fields and its payload contradict each other.
        """
        if len(frame.fields) != _RESULT.size:
            raise ProtocolViolation(f"A step's reply has {len(frame.fields)} bytes of fields, not {_RESULT.size}.")
        tokens, heads, dim, has_lse, base = _RESULT.unpack(frame.fields)
        rows = heads * tokens
        split = rows * dim
        if base != 1 or has_lse > 1 or len(frame.payload) != (split + has_lse * rows) * 4:
            raise ProtocolViolation(
                f"A step's reply has {len(frame.payload)} bytes for [{heads}, {tokens}, {dim}], base {base}."
            )
        numbers = frame.payload.view(_F32)
        return StepResult(
            tokens,
            heads,
            dim,
            numbers[:split].reshape(heads, tokens, dim),
            numbers[split:].reshape(heads, tokens) if has_lse else None,
        )

    def encoded(self) -> bytes:
        """The fields, for tests."""
        return _RESULT.pack(self.tokens, self.heads, self.value_dim, self.lse is not None, 1)


@dataclass(frozen=True, slots=True)
class RowsRequest:
    """Which tokens of a layer to read back."""

    sequence: int
    layer: int
    position: int
    count: int

    def encoded(self) -> bytes:
        """The fields."""
        return _ROWS.pack(self.sequence, self.layer, self.position, self.count)

    @staticmethod
    def decoded(data: memoryview) -> RowsRequest:
        """The fields of a frame, for tests."""
        return RowsRequest(*_ROWS.unpack(data))


@dataclass(frozen=True, slots=True)
class RowsReply:
    """Those of the tokens that a rank owns: keys ``[tokens, KV heads, Dk]`` and values ``[tokens, KV heads, Dv]``."""

    generation: int
    dtype: DType
    keys: npt.NDArray[np.generic]
    values: npt.NDArray[np.generic]

    @staticmethod
    def of(frame: Frame) -> RowsReply:
        """The rows in a frame.

        Raises:
            ProtocolViolation: Its fields and its payload contradict each other.
        """
        if len(frame.fields) != _ROWS_REPLY.size:
            raise ProtocolViolation(f"A reply of rows has {len(frame.fields)} bytes of fields, not {_ROWS_REPLY.size}.")
        generation, tokens, dtype, heads, key_dim, value_dim = _ROWS_REPLY.unpack(frame.fields)
        if (
            dtype not in NUMPY_DTYPES
            or len(frame.payload) != tokens * heads * (key_dim + value_dim) * DType(dtype).size
        ):
            raise ProtocolViolation(
                f"A reply of rows has {len(frame.payload)} bytes for {tokens} tokens of {heads} heads, dims {key_dim} "
                f"and {value_dim}, dtype {dtype}."
            )
        numbers = np.frombuffer(frame.payload, NUMPY_DTYPES[DType(dtype)])
        split = tokens * heads * key_dim
        return RowsReply(
            generation,
            DType(dtype),
            numbers[:split].reshape(tokens, heads, key_dim),
            numbers[split:].reshape(tokens, heads, value_dim),
        )

    def encoded(self) -> bytes:
        """The fields, for tests."""
        tokens, heads, key_dim = self.keys.shape
        return _ROWS_REPLY.pack(self.generation, tokens, self.dtype, heads, key_dim, self.values.shape[2])
