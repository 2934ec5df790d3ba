# SPDX-License-Identifier: Apache-2.0

"""A step's tensors, and each rank's part of them: values in, frames out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dcp_attention import tensors
from dcp_attention._client.journal import Chunk
from dcp_attention._wire.requests import CommitPart
from dcp_attention._wire.tensors import ENTRIES_MAX, QUERIES_ABSENT, TOKENS_MAX, StepFields, StepResult
from dcp_attention.errors import InvalidRequest, ProtocolViolation
from dcp_attention.model import DType, LayerAttention
from dcp_attention.shape import ClusterShape
from dcp_attention.values import AttentionOutput, Entry, Model, QueryMode, Topology

FRAME_BYTES = 128 << 20
"""Limit of a step's request or reply: half of a frame's limit, so that several steps can be in flight."""

LOCAL_BYTES, REMOTE_BYTES = 256 << 10, 64 << 10
"""What replicating queries may send more than gathering them would, to all ranks together: about what is sent in the
time of the exchange that is left out, over sockets of one machine and over a network."""


class Contents(NamedTuple):
    """The tensors of a call for all ranks. They are head-major, ``[heads, tokens, dim]``, and contiguous.

    Attributes:
        queries: ``None`` for tokens that are appended without attention.
        keys: ``None`` for tokens that are in the cache.
        values: ``None`` also where they are a part of the keys.
        query_mode: ``None`` takes what costs less.
        tokens: T, of all entries.
    """

    model: Model
    layer: int
    attention: LayerAttention
    entries: tuple[Entry, ...]
    queries: npt.NDArray[Any] | None
    query_dtype: DType
    keys: npt.NDArray[Any] | None
    values: npt.NDArray[Any] | None
    kv_dtype: DType
    query_mode: QueryMode | None
    wants_lse: bool
    tokens: int

    def chunks(self) -> list[Chunk]:
        """The keys and values of each entry, in memory of its own: one sequence does not keep those of others."""
        assert self.keys is not None
        if len(self.entries) == 1 and self.keys.base is None:
            return [Chunk(self.entries[0].position, self.keys, self.values, self.kv_dtype)]
        chunks: list[Chunk] = []
        start = 0
        for entry in self.entries:
            rows = slice(start, start + entry.count)
            start += entry.count
            values = None if self.values is None else self.values[:, rows].copy()
            chunks.append(Chunk(entry.position, self.keys[:, rows].copy(), values, self.kv_dtype))
        return chunks

    def frames(
        self, topology: Topology, claims: list[int], timeout: float, commits: tuple[CommitPart, ...] = ()
    ) -> Iterator[tuple[int, bytes, list[npt.NDArray[Any]]]]:
        """For each rank its fields and its tensors: the queries of its own heads, or of its group's, and the keys and
        values of its group's heads; without queries of those tokens alone that it owns. Ranks that are sent the same
        are given the same objects.
        """
        attention, shape = self.attention, topology.shape
        query_mode = self._query_mode(topology)
        entries = tuple(
            (entry.sequence.id, entry.position, entry.count, claim)
            for entry, claim in zip(self.entries, claims, strict=True)
        )
        made: tuple[range, range, bytes, list[npt.NDArray[Any]]] | None = None
        for rank, (own_heads, group_heads, kv_heads) in enumerate(
            head_places(shape, attention.query_heads, attention.kv_heads)
        ):
            query_heads = group_heads if query_mode is QueryMode.REPLICATE else own_heads
            if made is not None and self.queries is not None and made[:2] == (query_heads, kv_heads):
                yield rank, *made[2:]
                continue
            owned = None if self.queries is not None else self._owned(rank, shape)
            payload = [] if self.queries is None else [self.queries[query_heads.start : query_heads.stop]]
            kv_tokens = 0
            for numbers in (self.keys, self.values):
                if numbers is not None:
                    part = numbers[kv_heads.start : kv_heads.stop]
                    part = part if owned is None else np.take(part, owned, axis=1)
                    kv_tokens = part.shape[1]
                    payload.append(part)
            fields = StepFields(
                model=self.model.id,
                query_mode=QUERIES_ABSENT if self.queries is None else query_mode,
                appends=self.keys is not None,
                wants_lse=self.wants_lse,
                timeout_milliseconds=int(timeout * 1000),
                query_dtype=self.query_dtype,
                kv_dtype=self.kv_dtype,
                query_heads=0 if self.queries is None else len(query_heads),
                kv_heads=len(kv_heads),
                key_dim=attention.key_dim,
                value_dim=attention.own_value_dim,
                kv_tokens=kv_tokens,
                entries=entries,
                commits=commits,
            )
            made = (query_heads, kv_heads, fields.encoded(), payload)
            yield rank, *made[2:]

    def _query_mode(self, topology: Topology) -> QueryMode:
        """The requested mode, or the cheaper one: replicated queries save the ranks a message before any of
        them can begin, and cost the client as many bytes as the ranks would have sent.
        """
        if self.query_mode is not None:
            return self.query_mode
        others = topology.shape.context_ranks - 1
        is_first = self.keys is not None and all(entry.position == 0 for entry in self.entries)
        if self.queries is None or others == 0 or is_first:
            return QueryMode.GATHER
        limit = REMOTE_BYTES if _is_remote(topology.endpoints) else LOCAL_BYTES
        return QueryMode.REPLICATE if others * self.queries.nbytes <= limit else QueryMode.GATHER

    def _owned(self, rank: int, shape: ClusterShape) -> npt.NDArray[np.int64]:
        start = 0
        owned: list[npt.NDArray[np.int64]] = []
        for entry in self.entries:
            owned.append(shape.owned(rank, entry.position, entry.count) + start)
            start += entry.count
        return np.concatenate(owned)

    def joined(self, results: list[StepResult], shape: ClusterShape) -> AttentionOutput:
        """The ranks' answers as one.

        Raises:
            ProtocolViolation: One of them is not of its rank's heads.
        """
        attention, tokens = self.attention, self.tokens
        places = head_places(shape, attention.query_heads, attention.kv_heads)
        for rank, (result, (own_heads, _, _)) in enumerate(zip(results, places, strict=True)):
            heads = 0 if self.queries is None else len(own_heads)
            expected = (tokens, heads, attention.value_dim, self.wants_lse)
            # Without queries there are no heads, and so no numbers of any dimension.
            found = (result.tokens, result.heads, result.value_dim, result.lse is not None)
            if found != expected and (self.queries is not None or found[:2] != expected[:2]):
                raise ProtocolViolation(
                    f"rank {rank} answered with outputs [{result.heads}, {result.tokens}, {result.value_dim}], not "
                    f"[{heads}, {tokens}, {attention.value_dim}]; it has a bug or is of another release."
                )
        lses = [result.lse for result in results if result.lse is not None]
        if len(results) == 1:
            out, lse = results[0].outputs, lses[0] if lses else None
        else:
            out = np.concatenate([result.outputs for result in results])
            lse = np.concatenate(lses) if lses else None
        return AttentionOutput(out.transpose(1, 0, 2), None if lse is None else lse.transpose(1, 0))

    def parts(self) -> list[Contents]:
        """The same as several steps, when it is more than one frame may have."""
        tokens_max = 1  # a token always fits
        if self.tokens > 1:
            tokens_max = max(min(FRAME_BYTES // max(self._row_bytes(), 1), TOKENS_MAX), 1)
        if self.tokens <= tokens_max and len(self.entries) <= ENTRIES_MAX:
            return [self]
        return [self._part(*bounds) for bounds in _bounds(self.entries, tokens_max)]

    def _row_bytes(self) -> int:
        """The most that one token has of a frame."""
        a = self.attention
        queries = 0 if self.queries is None else a.query_heads * a.key_dim * self.query_dtype.size
        keys = 0 if self.keys is None else a.kv_heads * (a.key_dim + a.own_value_dim) * self.kv_dtype.size
        return max(queries + keys, 0 if self.queries is None else a.query_heads * (a.value_dim + 1) * 4)

    def _part(self, entries: tuple[Entry, ...], start: int, end: int) -> Contents:
        def rows(numbers: npt.NDArray[Any] | None) -> npt.NDArray[Any] | None:
            return None if numbers is None else np.ascontiguousarray(numbers[:, start:end])

        return Contents(
            self.model,
            self.layer,
            self.attention,
            entries,
            rows(self.queries),
            self.query_dtype,
            rows(self.keys),
            rows(self.values),
            self.kv_dtype,
            self.query_mode,
            self.wants_lse,
            end - start,
        )


@lru_cache(maxsize=256)
def head_places(shape: ClusterShape, query_heads: int, kv_heads: int) -> tuple[tuple[range, range, range], ...]:
    """For each rank the query heads that it owns, and the query heads and the KV heads of its group."""
    return tuple(
        (shape.own_heads(rank, query_heads), shape.group_heads(rank, query_heads), shape.group_heads(rank, kv_heads))
        for rank in range(shape.ranks)
    )


@lru_cache(maxsize=256)
def _is_remote(endpoints: tuple[str | None, ...]) -> bool:
    """Whether a network is between the client and a rank."""
    return any(endpoint is not None and endpoint.startswith("tcp:") for endpoint in endpoints)


def _bounds(entries: Iterable[Entry], tokens_max: int) -> Iterator[tuple[tuple[Entry, ...], int, int]]:
    """Entries in groups of at most this many tokens, and which tokens each group has."""
    group: list[Entry] = []
    start = end = 0
    for whole in entries:
        position, left = whole.position, whole.count
        while left:
            count = min(left, tokens_max - (end - start))
            if count == 0 or len(group) == ENTRIES_MAX:
                yield tuple(group), start, end
                group, start = [], end
                continue
            group.append(Entry(whole.sequence, position, count))
            position, left, end = position + count, left - count, end + count
    if group:
        yield tuple(group), start, end


def contents(
    layer: int,
    entries: Iterable[Entry],
    q: tensors.Tensor | None,
    k: tensors.Tensor | None,
    v: tensors.Tensor | None,
    *,
    query_mode: QueryMode | None = None,
    lse: bool = True,
    keeps: bool = False,
) -> Contents:
    """The tensors of a call, checked against its layer.

    Args:
        layer: Which one.
        entries: The parts about each sequence.
        q: ``[tokens, Hq, Dk]``, or ``None``.
        k: ``[tokens, Hkv, Dk]``, or ``None``.
        v: ``[tokens, Hkv, Dv]``, or ``None``.
        query_mode: Of the queries; ``None`` takes what costs less.
        lse: Whether log-sum-exps are wanted.
        keeps: Whether keys and values are needed when the caller may have changed its memory.

    Raises:
        InvalidRequest: Something is not of the layer's shape, with both.
    """
    entries = tuple(entries)
    model, tokens = _checked(entries)
    layers = model.description.layers
    if not 0 <= layer < len(layers):
        raise InvalidRequest(f"Layer {layer} is outside 0..<{len(layers)} of model `{model.name}`; correct the number.")
    a = layers[layer]
    queries = None if q is None else tensors.rows(q, "queries", tokens, a.query_heads, a.key_dim)
    keys = None if k is None else tensors.rows(k, "keys", tokens, a.kv_heads, a.key_dim)
    if keys is not None and (v is None) != a.leading_values:
        raise InvalidRequest(
            f"The step has no values; the layer needs [{tokens}, {a.kv_heads}, {a.value_dim}]."
            if v is None
            else f"The step has values; the layer's are the first {a.value_dim} dimensions of its keys. Leave them out."
        )
    values = None if v is None else tensors.rows(v, "values", tokens, a.kv_heads, a.value_dim)
    if keys is not None and values is not None and keys.dtype is not values.dtype:
        raise InvalidRequest(
            f"Keys are {keys.dtype.name.lower()} and values {values.dtype.name.lower()}; use one dtype for both."
        )
    kv_dtype = model.description.kv_format.row_type if keys is None else keys.dtype
    return Contents(
        model,
        layer,
        a,
        entries,
        None if queries is None else queries.head_major(),
        kv_dtype if queries is None else queries.dtype,
        None if keys is None else keys.head_major(keeps=keeps),
        None if values is None else values.head_major(keeps=keeps),
        kv_dtype,
        query_mode,
        lse and queries is not None,
        tokens,
    )


def _checked(entries: tuple[Entry, ...]) -> tuple[Model, int]:
    if not entries:
        raise InvalidRequest("The step has no entries; give at least one.")
    model = entries[0].sequence.model
    seen: set[int] = set()
    tokens = 0
    for entry in entries:
        sequence = entry.sequence
        if entry.count < 1 or entry.position < 0:
            raise InvalidRequest(
                f"The entry of sequence `{sequence.name}` has {entry.count} tokens at position {entry.position}; "
                "counts begin at 1 and positions at 0."
            )
        if sequence.id in seen:
            raise InvalidRequest(f"Sequence `{sequence.name}` is in the step twice; join its entries into one.")
        if sequence.model.id != model.id:
            raise InvalidRequest(
                f"Sequence `{sequence.name}` has model `{sequence.model.name}`, the step's others `{model.name}`; make "
                "a step for each model."
            )
        seen.add(sequence.id)
        tokens += entry.count
    return model, tokens
