# SPDX-License-Identifier: Apache-2.0

"""The uncommitted tokens that a client keeps, so that it can send them again after an outage."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dcp_attention.model import DType


class Chunk(NamedTuple):
    """Tokens of one layer: ``[KV heads, tokens, Dk]`` and ``[KV heads, tokens, Dv]``, whose memory must not change."""

    position: int
    keys: npt.NDArray[Any]
    values: npt.NDArray[Any] | None
    dtype: DType

    @property
    def end(self) -> int:
        """The position after the last token."""
        return self.position + int(self.keys.shape[1])

    def part(self, start: int, end: int) -> Chunk:
        """The tokens of these positions, over the same memory."""
        rows = slice(start - self.position, end - self.position)
        return Chunk(start, self.keys[:, rows], None if self.values is None else self.values[:, rows], self.dtype)

    def kept(self, start: int, end: int) -> Chunk:
        """The tokens of these positions, in memory of at most twice their size: copied when it would be more, so that
        a chunk that is shortened many times is copied for each halving alone.
        """
        part = self.part(start, end)
        whole = part.keys.base
        if whole is None or whole.nbytes <= 2 * part.keys.nbytes:
            return part
        return Chunk(start, part.keys.copy(), None if part.values is None else part.values.copy(), part.dtype)


class Journal:
    """The chunks of each layer, by rising position, and each layer's end.

    Attributes:
        base: Where the layers ended that nothing was appended to since.
    """

    __slots__ = ("_chunks", "_ends", "base")

    def __init__(self, base: int) -> None:
        self.base = base
        self._chunks: dict[int, list[Chunk]] = {}
        self._ends: dict[int, int] = {}

    def end(self, layer: int) -> int:
        """A layer's end, as the caller knows it."""
        return self._ends.get(layer, self.base)

    def least_end(self, layers: int) -> int:
        """The length that all layers have."""
        return min(self.end(layer) for layer in range(layers))

    def appended(self, layer: int, end: int, chunk: Chunk | None) -> None:
        """A step was answered. Without a chunk it cannot be undone."""
        self._ends[layer] = end
        if chunk is not None:
            self._chunks.setdefault(layer, []).append(chunk)

    def committed(self, length: int) -> None:
        """These tokens are durable: they are not needed any more."""
        for layer, chunks in self._chunks.items():
            if chunks and chunks[0].position < length:
                self._chunks[layer] = [
                    chunk if chunk.position >= length else chunk.kept(length, chunk.end)
                    for chunk in chunks
                    if chunk.end > length
                ]

    def cut(self, length: int) -> None:
        """Cuts the layers that are longer to a length."""
        self.base = min(self.base, length)
        for layer in self._ends:
            self.cut_layer(layer, length)

    def cut_layer(self, layer: int, length: int) -> None:
        """Cuts one layer to a length, if it is longer."""
        if self.end(layer) <= length:
            return
        self._ends[layer] = length
        self._chunks[layer] = [
            chunk if chunk.end <= length else chunk.kept(chunk.position, length)
            for chunk in self._chunks.get(layer, ())
            if chunk.position < length
        ]

    def forked(self, length: int) -> Journal:
        """The journal of a fork of the first tokens: the same chunks."""
        fork = Journal(length)
        for layer, chunks in self._chunks.items():
            fork._chunks[layer] = list(chunks)
            fork._ends[layer] = self.end(layer)
        fork.cut(length)
        return fork

    def missing(self, layer: int, start: int) -> list[Chunk] | None:
        """The chunks from a position to the layer's end; ``None`` when some of it is not here."""
        end = self.end(layer)
        found: list[Chunk] = []
        for chunk in self._chunks.get(layer, ()):
            if chunk.end <= start:
                continue
            if chunk.position > start:
                return None
            found.append(chunk.part(start, chunk.end))
            start = chunk.end
        return found if start >= end else None


def joined(chunks: Iterable[Chunk], tokens_max: int) -> list[Chunk]:
    """Joins consecutive chunks into as few as possible of at most this many tokens."""
    result: list[Chunk] = []
    waiting: list[Chunk] = []
    count = 0

    def flush() -> None:
        nonlocal count
        if waiting:
            values = [chunk.values for chunk in waiting if chunk.values is not None]
            result.append(
                Chunk(
                    waiting[0].position,
                    np.concatenate([chunk.keys for chunk in waiting], axis=1),
                    np.concatenate(values, axis=1) if values else None,
                    waiting[0].dtype,
                )
            )
        waiting.clear()
        count = 0

    for whole in chunks:
        for start in range(whole.position, whole.end, tokens_max):
            chunk = whole.part(start, min(start + tokens_max, whole.end))
            tokens = chunk.end - chunk.position
            if waiting and (count + tokens > tokens_max or waiting[0].dtype is not chunk.dtype):
                flush()
            waiting.append(chunk)
            count += tokens
    flush()
    return result
