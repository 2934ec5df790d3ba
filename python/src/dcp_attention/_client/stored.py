# SPDX-License-Identifier: Apache-2.0

"""Reads from the ranks: lengths, token ids, keys and values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from dcp_attention._client.claims import rank_statuses
from dcp_attention._client.keeper import Keeper
from dcp_attention._client.resumption import progress
from dcp_attention._client.session import Session
from dcp_attention._wire.codec import LENGTH, check
from dcp_attention._wire.requests import (
    MATCH,
    READ_TOKENS,
    HeldLength,
    MatchTokens,
    ReadTokens,
    SequenceStatus,
    StoredTokens,
)
from dcp_attention._wire.tensors import NUMPY_DTYPES, ROWS_TYPE, TOKENS_MAX, RowsReply, RowsRequest
from dcp_attention.errors import Conflict, InvalidRequest, NotReady, ProtocolViolation, StoreDamaged
from dcp_attention.tensors import stored
from dcp_attention.values import CachedRows, Model, PrefixMatch, Progress, Sequence, Topology

_IDS_MAX = 1 << 20
_MATCHES_MAX = 16
_PIECE_BYTES = 4 << 20


class Stored:
    """Reads from the ranks; nothing here changes a sequence."""

    def __init__(self, session: Session, keeper: Keeper) -> None:
        self._session = session
        self._keeper = keeper

    # Lengths.

    async def status(self, sequence: Sequence) -> Progress:
        """The ranks' status of a sequence."""
        return await self._keeper.read([sequence], lambda: self._keeper.status(sequence))

    async def statuses(self, sequences: Iterable[Sequence]) -> dict[int, Progress]:
        """The ranks' status of sequences; a sequence that is not on every rank is omitted."""
        known = list(sequences)

        async def attempt() -> dict[int, Progress]:
            topology = await self._session.ready_topology()
            found = await self._keeper.rank_statuses([sequence.id for sequence in known], topology)
            return {
                sequence: progress([ranks[rank] for rank in sorted(ranks)])
                for sequence, ranks in found.items()
                if len(ranks) == topology.shape.ranks
            }

        return await self._keeper.read(known, attempt)

    # Token ids.

    async def match(self, model: Model, ids: tuple[int, ...], scope: str, revision: str | None) -> PrefixMatch | None:
        """The stored sequence that begins with the most of some ids."""

        async def attempt(_: int) -> PrefixMatch | None:
            topology = await self._session.ready_topology()
            excluding: tuple[int, ...] = ()
            for number in range(_MATCHES_MAX):
                question = MatchTokens(model.id, scope, ids, excluding, revision or "")
                rank = (self._session.tag().number + number) % topology.shape.ranks
                (found,) = await self._session.ask_ranks(MATCH, question, topology, [rank])
                if found is None:
                    return None
                length = await self._committed_everywhere(found, topology)
                if length > 0:
                    return PrefixMatch(found.sequence, length)
                excluding += (found.sequence,)
            raise NotReady(
                f"{_MATCHES_MAX} sequences that begin with these ids are damaged on a rank or are being "
                "closed; try again."
            )

        return await self._keeper.persist((), attempt)

    async def _committed_everywhere(self, found: HeldLength, topology: Topology) -> int:
        def is_whole(status: SequenceStatus) -> bool:
            return status.intact == status.committed == status.token_ids

        statuses = (await rank_statuses(self._session, [found.sequence], topology))[found.sequence].values()
        if len(statuses) < topology.shape.ranks or not all(is_whole(status) for status in statuses):
            return 0
        return min(found.length, *(status.committed for status in statuses))

    async def token_ids(self, sequence: Sequence, start: int, count: int | None) -> npt.NDArray[np.uint32]:
        """Token ids as they were committed."""
        check(LENGTH, "start", start)
        if count is not None:
            check(LENGTH, "count", count)
        else:
            count = max((await self.status(sequence)).token_ids - start, 0)
        ids: list[int] = []
        while len(ids) < count:
            some = min(_IDS_MAX, count - len(ids))
            answer = await self._read(ReadTokens(sequence.id, start + len(ids), some, False))
            if len(answer.ids) != some:
                raise ProtocolViolation(
                    f"A rank answered with {len(answer.ids)} token ids instead of {some}; report it."
                )
            ids += answer.ids
        return np.array(ids, np.uint32)

    async def annotation(self, sequence: Sequence) -> bytes | None:
        """The annotation of a sequence."""
        return (await self._read(ReadTokens(sequence.id, 0, 0, True))).annotation

    async def _read(self, request: ReadTokens) -> StoredTokens:
        """Reads data that all ranks have from one rank after the other, until one has it intact."""

        async def attempt(_: int) -> StoredTokens:
            topology = await self._session.ready_topology()
            failure: StoreDamaged | None = None
            for rank in range(topology.shape.ranks):
                try:
                    (answer,) = await self._session.ask_ranks(READ_TOKENS, request, topology, [rank])
                    return answer
                except StoreDamaged as error:
                    failure = error
            assert failure is not None
            raise failure

        return await self._keeper.persist((), attempt)

    # Rows.

    async def rows(self, sequence: Sequence, layer: int, start: int, count: int | None) -> CachedRows:
        """Committed keys and values of one layer."""
        layers = sequence.model.description.layers
        if not 0 <= layer < len(layers) or start < 0 or (count is not None and count < 0):
            raise InvalidRequest(
                f"Layer {layer}, position {start} and {count} tokens are outside the {len(layers)} layers of model "
                f"`{sequence.model.name}`, or below 0; correct them."
            )
        if count is None:
            count = max((await self.status(sequence)).committed - start, 0)
        end = start + count
        return await self._keeper.persist((), lambda _: self._rows(sequence, layer, start, end))

    async def _rows(self, sequence: Sequence, layer: int, start: int, end: int) -> CachedRows:
        topology = await self._session.ready_topology()
        attention = sequence.model.description.layers[layer]
        dtype = sequence.model.description.kv_format.row_type
        numpy_dtype = NUMPY_DTYPES[dtype]
        keys = np.empty((end - start, attention.kv_heads, attention.key_dim), numpy_dtype)
        values = np.empty((end - start, attention.kv_heads, attention.own_value_dim), numpy_dtype)
        row_bytes = attention.kv_heads * (attention.key_dim + attention.own_value_dim) * dtype.size
        version: tuple[int, ...] | None = None
        for first, last in _pieces(
            start, end, min(max(_PIECE_BYTES * topology.shape.ranks // row_bytes, 1), TOKENS_MAX)
        ):
            replies = await self._piece(RowsRequest(sequence.id, layer, first, last - first), topology)
            found = tuple(rows.generation for rows in replies)
            if version is not None and version != found:
                raise Conflict(
                    f"Sequence `{sequence.name}` was truncated while positions {start}..<{end} were read; read them "
                    "again."
                )
            version = found
            for rank, rows in enumerate(replies):
                places = topology.shape.owned(rank, first, last - first) + (first - start)
                heads = topology.shape.group_heads(rank, attention.kv_heads)
                _spread(rows.keys, keys, places, heads, rank)
                _spread(rows.values, values, places, heads, rank)
        own_values = None if attention.leading_values else stored(values, dtype)
        return CachedRows(stored(keys, dtype), own_values, (topology.epoch, *(version or ())))

    async def _piece(self, request: RowsRequest, topology: Topology) -> list[RowsReply]:
        frames = [(rank, request.encoded(), ()) for rank in range(topology.shape.ranks)]
        replies = await self._session.send(ROWS_TYPE, frames, topology, timeout=self._session.timeout)
        return [RowsReply.of(frame) for frame in replies]


def _pieces(start: int, end: int, tokens: int) -> Iterator[tuple[int, int]]:
    """A range in pieces; an empty one has one, so that its sequence is known to be there."""
    yield start, min(start + tokens, end)
    for first in range(start + tokens, end, tokens):
        yield first, min(first + tokens, end)


def _spread(
    rows: npt.NDArray[Any], target: npt.NDArray[Any], places: npt.NDArray[np.int64], heads: range, rank: int
) -> None:
    """Puts a rank's rows in their places among all."""
    if rows.dtype != target.dtype or rows.shape != (len(places), len(heads), target.shape[2]):
        raise ProtocolViolation(
            f"rank {rank} answered with rows {list(rows.shape)} of {rows.dtype}, not [{len(places)}, {len(heads)}, "
            f"{target.shape[2]}] of {target.dtype}; it has a bug or is of another release."
        )
    target[places, heads.start : heads.stop] = rows
