# SPDX-License-Identifier: Apache-2.0

"""Steps, appends, queries and commits."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np

from dcp_attention._client.claims import Claims, IDsOf
from dcp_attention._client.keeper import Keeper
from dcp_attention._client.plan import Contents
from dcp_attention._client.resumption import FirstUse
from dcp_attention._client.session import Session
from dcp_attention._wire.requests import COMMIT, StartedIDs
from dcp_attention.errors import InvalidRequest
from dcp_attention.values import AttentionOutput, Commit, Entry, Sequence, TokenIDs


class Attention:
    """Attention, and the tokens that it attends over."""

    def __init__(self, session: Session, claims: Claims, keeper: Keeper) -> None:
        self._session = session
        self._claims = claims
        self._keeper = keeper

    async def run(self, contents: Contents, commits: Iterable[Commit] = ()) -> AttentionOutput:
        """Carries a call out, in as many steps as it takes; the last commits."""
        with_ids = tuple((commit, _started(commit)) for commit in commits)
        known = {entry.sequence.id: entry.sequence for entry in contents.entries}
        for commit, _ in with_ids:
            known.setdefault(commit.sequence.id, commit.sequence)
        parts = contents.parts()
        async with self._keeper.turn(known.values()):
            if len(parts) == 1:
                return await self._step(contents, known.values(), with_ids)
            try:
                outputs = await self._steps(parts, known, with_ids)
            except BaseException:
                if contents.keys is not None:
                    self._keeper.undo(contents.layer, contents.entries)
                raise
        lses = [output.lse for output in outputs if output.lse is not None]
        return AttentionOutput(
            np.concatenate([output.out for output in outputs]), np.concatenate(lses) if lses else None
        )

    async def _steps(
        self, parts: list[Contents], known: dict[int, Sequence], commits: tuple[IDsOf, ...]
    ) -> list[AttentionOutput]:
        outputs = [await self._step(part, [entry.sequence for entry in part.entries]) for part in parts[:-1]]
        last = {entry.sequence.id for entry in parts[-1].entries} | {commit.sequence.id for commit, _ in commits}
        sequences = [sequence for number, sequence in known.items() if number in last]
        outputs.append(await self._step(parts[-1], sequences, commits))
        return outputs

    async def _step(
        self, step: Contents, sequences: Collection[Sequence], commits: tuple[IDsOf, ...] = ()
    ) -> AttentionOutput:
        keeper = self._keeper
        if step.keys is None:
            return await keeper.insist(sequences, lambda _: keeper.send(step))
        fresh: list[Sequence] = []

        async def attempt(_: int) -> AttentionOutput:
            # Looked up in its turn: another call may have been the first while this one waited.
            for entry in step.entries:
                if keeper.get(entry.sequence) is None:
                    fresh.append(entry.sequence)
                    keeper.begin(entry.sequence, _first_use(step.layer, entry, commits))
            output = await keeper.send(step, commits)
            chunks = step.chunks() if keeper.retry_for > 0 else [None] * len(step.entries)
            for entry, chunk in zip(step.entries, chunks, strict=True):
                used = keeper.get(entry.sequence)
                assert used is not None
                used.first = None
                used.journal.appended(step.layer, entry.position + entry.count, chunk)
            self._committed(commits)
            return output

        try:
            return await keeper.insist(sequences, attempt)
        except BaseException:
            keeper.doubt(fresh)
            raise

    async def commit(self, commits: Iterable[Commit]) -> None:
        """Makes the first tokens of sequences durable on every rank."""
        with_ids = tuple((commit, _started(commit)) for commit in commits)
        if not with_ids:
            return

        async def attempt(_: int) -> None:
            topology = await self._session.ready_topology()
            parts = await self._claims.commit_parts(with_ids, topology.epoch)
            await self._session.ask_ranks(COMMIT, parts, topology)
            self._committed(with_ids)

        await self._keeper.persist([commit.sequence for commit, _ in with_ids], attempt)

    def _committed(self, commits: tuple[IDsOf, ...]) -> None:
        for commit, _ in commits:
            used = self._keeper.get(commit.sequence)
            if used is not None:
                used.journal.committed(commit.length)


def _first_use(layer: int, entry: Entry, commits: tuple[IDsOf, ...]) -> FirstUse:
    lengths = [commit.length for commit, _ in commits if commit.sequence.id == entry.sequence.id]
    return FirstUse(entry.position, layer, entry.position + entry.count, max(lengths, default=None))


def checked_ids(token_ids: TokenIDs) -> tuple[int, ...]:
    """Ids as the wire has them.

    Raises:
        InvalidRequest: They are no whole numbers of 32 bits.
    """
    ids = np.asarray(token_ids)
    if ids.size == 0:
        return ()
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise InvalidRequest(f"Token ids are {ids.dtype} of shape {list(ids.shape)}; pass a list of whole numbers.")
    least, most = int(ids.min()), int(ids.max())
    if least < 0 or most > 0xFFFF_FFFF:
        raise InvalidRequest(
            f"A token id is {least if least < 0 else most}, outside 0...{0xFFFF_FFFF}; correct the ids."
        )
    return tuple(ids.tolist())


def _started(commit: Commit) -> StartedIDs | None:
    if commit.token_ids is None:
        return None
    ids = checked_ids(commit.token_ids)
    start = commit.length - len(ids) if commit.first_id is None else commit.first_id
    if start < 0:
        raise InvalidRequest(
            f"{len(ids)} token ids are more than the {commit.length} tokens of sequence `{commit.sequence.name}`; "
            "pass only those of its tokens."
        )
    return StartedIDs(start, ids)
