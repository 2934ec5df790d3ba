# SPDX-License-Identifier: Apache-2.0

"""Keeps sequences through outages: their tokens, and how the ranks get them back."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection, Iterable
from collections.abc import Sequence as SequenceOf
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar, cast

from dcp_attention._client.claims import Claims, IDsOf, rank_statuses
from dcp_attention._client.journal import Journal, joined
from dcp_attention._client.outages import Outage
from dcp_attention._client.plan import Contents
from dcp_attention._client.resumption import Action, FirstUse, progress, resumption
from dcp_attention._client.session import Session, counted
from dcp_attention._io.forks import in_children
from dcp_attention._wire.requests import (
    CUT_UNCOMMITTED,
    TRUNCATE_SEQUENCE,
    CutUncommitted,
    SequenceStatus,
    TruncateSequence,
)
from dcp_attention._wire.tensors import STEP_TYPE, StepResult
from dcp_attention.errors import Claimed, ServiceError, StaleEpoch, TokensLost, UnknownSequence
from dcp_attention.values import AttentionOutput, Entry, Progress, Sequence, Topology

T = TypeVar("T")

_REPLAY_BYTES = 32 << 20


@dataclass(slots=True)
class Used:
    """A sequence that this client uses.

    Attributes:
        journal: What it has appended and not committed, and where the layers end.
        epoch: In which the ranks were known to have that.
        is_settled: Whether nothing has failed since.
        is_guessed: Whether the journal's base is no more than what a first use, which failed, took it for.
        first: The first use, until the ranks have confirmed the journal's base.
    """

    sequence: Sequence
    journal: Journal
    epoch: int
    is_settled: bool = field(default=True)
    is_guessed: bool = field(default=False)
    first: FirstUse | None = field(default=None)


class Keeper:
    """Runs calls about sequences until they succeed or the outage has lasted for too long."""

    def __init__(self, session: Session, claims: Claims, retry_for: float) -> None:
        self._session = session
        self._claims = claims
        self.retry_for = retry_for
        self._used: dict[int, Used] = {}
        in_children(self, Keeper.forked)

    def forked(self) -> None:
        """In a child process: the parent goes on with its sequences, which are not what they were at the fork."""
        self._used = {}

    # What is used.

    def get(self, sequence: Sequence) -> Used | None:
        """A sequence that was used before."""
        return self._used.get(sequence.id)

    def begin(self, sequence: Sequence, first: FirstUse) -> None:
        """Records a sequence at its first use: all layers are assumed to end at its position."""
        self._used[sequence.id] = Used(sequence, Journal(first.position), self._session.epoch, first=first)

    def made(self, sequence: Sequence, journal: Journal) -> None:
        """Records a sequence that this client has created, or has just made the ranks agree on."""
        self._used[sequence.id] = Used(sequence, journal, self._session.epoch)

    def found(self, sequence: Sequence, journal: Journal) -> None:
        """Records a sequence that this client is taken to have created: the ranks are asked before its next use."""
        first = FirstUse(journal.base)
        self._used[sequence.id] = Used(sequence, journal, self._session.epoch, is_settled=False, first=first)

    def doubt(self, sequences: Iterable[Sequence]) -> None:
        """Their first use failed: their ends are requested before the next use."""
        for sequence in sequences:
            used = self._used.get(sequence.id)
            if used is not None:
                used.is_settled, used.is_guessed = False, True

    def undo(self, layer: int, entries: Iterable[Entry]) -> None:
        """Some steps of a call were carried out, and the call failed: before their next use the sequences are cut back
        to where it began, so that it can be made again.
        """
        for entry in entries:
            used = self._used.get(entry.sequence.id)
            if used is not None:
                used.journal.cut_layer(layer, entry.position)
                used.is_settled = False

    def drop(self, sequence: Sequence) -> None:
        """Forgets a sequence that is closed or about to be taken over."""
        self._used.pop(sequence.id, None)
        self._claims.drop(sequence.id)

    # Through outages.

    async def persist(
        self, sequences: Iterable[Sequence], attempt: Callable[[int], Awaitable[T]], *, prepares: bool = True
    ) -> T:
        """Runs an attempt until it succeeds. Before each attempt the ranks get the tokens that this client knows.

        Args:
            sequences: What it is about; no other call about them runs at the same time.
            attempt: May be repeated; it is given how often it was.
            prepares: Whether the ranks have to have what this client knows.

        Raises:
            ServiceError: It is not retryable, or the outage has lasted for ``retry_for``.
        """
        known = tuple(sequences)
        async with self.turn(known):
            return await self.insist(known, attempt, prepares=prepares)

    def turn(self, sequences: Iterable[Sequence]) -> AbstractAsyncContextManager[Any]:
        """The turn of a call about sequences, in the order in which calls were made."""
        return self._session.transport.lock([sequence.id for sequence in sequences])

    async def insist(
        self, known: Collection[Sequence], attempt: Callable[[int], Awaitable[T]], *, prepares: bool = True
    ) -> T:
        """See `persist`; in a turn of these sequences."""
        outage: Outage | None = None
        number = 0
        while True:
            try:
                if prepares:
                    await self.prepare(known)
                return await attempt(number)
            except ServiceError as error:
                if not isinstance(error, TokensLost):
                    self._unsettle(known)
                failure = error
            except BaseException:
                # Interrupted: ranks may have any part of it.
                self._unsettle(known)
                raise
            outage = outage or Outage(self.retry_for)
            number += 1
            await self.wait_out(failure, outage)

    async def persist_each(
        self,
        sequences: SequenceOf[Sequence | None],
        attempt: Callable[[int, list[int]], Awaitable[list[T | ServiceError]]],
        *,
        prepares: bool = True,
    ) -> list[T]:
        """Runs an attempt at several things until each is done or refused for good.

        Args:
            sequences: What each is about, or ``None``.
            attempt: Is given how often it was repeated, and the indices of what is not done; answers in their order.
            prepares: As of `persist`.

        Raises:
            ServiceError: The first that failed, with the answers of all.
        """
        results: list[T | ServiceError | None] = [None] * len(sequences)
        left = list(range(len(sequences)))

        async def run(number: int) -> None:
            nonlocal left
            answers = await attempt(number, left)
            refused = None
            later = []
            for index, answer in zip(left, answers, strict=True):
                results[index] = answer
                if isinstance(answer, ServiceError) and answer.is_retryable:
                    refused = refused or answer
                    later.append(index)
            left = later
            if refused is not None:
                raise refused

        known = {sequence.id: sequence for sequence in sequences if sequence is not None}
        try:
            if left:
                await self.persist(known.values(), run, prepares=prepares)
        except ServiceError as error:
            for index in left:
                results[index] = error
        for result in results:
            if isinstance(result, ServiceError):
                result.answers = tuple(results)
                raise result
        return cast("list[T]", results)

    async def read(self, sequences: Iterable[Sequence], attempt: Callable[[], Awaitable[T]]) -> T:
        """Runs an attempt that only reads, and before it brings back what this client has of the sequences that it
        uses. What another client has taken over is read as it is.
        """
        used = [sequence for sequence in sequences if sequence.id in self._used]

        async def run(_: int) -> T:
            for sequence in used:
                with suppress(Claimed):
                    await self.prepare([sequence])
            return await attempt()

        return await self.persist(used, run, prepares=False)

    async def prepare(self, sequences: Iterable[Sequence]) -> None:
        """Gives the ranks the tokens that this client knows; in an attempt of `persist`, which does it otherwise."""
        for sequence in sequences:
            used = self._used.get(sequence.id)
            if used is not None:
                await self._settle(used)
            elif self._claims.is_over(sequence.id, (await self._session.ready_topology()).epoch):
                await self._claims.keep(sequence)

    def _unsettle(self, sequences: Iterable[Sequence]) -> None:
        for sequence in sequences:
            used = self._used.get(sequence.id)
            if used is not None:
                used.is_settled = False

    async def wait_out(self, error: ServiceError, outage: Outage) -> None:
        """Returns when it is time to try again.

        Raises:
            ServiceError: The error for the caller.
        """
        while True:
            retry = outage.failed(error, time.monotonic())
            if retry.after > 0:
                # Between two attempts: nothing tells when a daemon that was refused or full will answer again.
                await self._session.transport.sleep(retry.after)
            if not retry.needs_topology:
                return
            try:
                await self._session.ready_topology(retry.patience)
                return
            except ServiceError as next_error:
                error = next_error

    # The ranks brought to agree.

    async def take_over(self, sequence: Sequence, at_most: int | None) -> int:
        """Claims a sequence from its current client, and makes the ranks agree on it.

        Returns:
            Where all layers end.
        """
        await self._claims.take(sequence)
        there = await self._agree(sequence, at_most)
        self.made(sequence, Journal(there.length))
        return there.length

    async def _settle(self, used: Used) -> None:
        """Brings the ranks to the state that this client knows, after a failure or a change of the membership."""
        topology = await self._session.ready_topology()
        if used.is_settled and used.epoch == topology.epoch:
            return
        used.is_settled = False
        await self._claims.keep(used.sequence)
        # The ranks refuse a step at a wrong position. What lies beyond it is nobody's mistake to delete.
        if used.is_guessed or (used.first and not used.first.explains(await self.status(used.sequence))):
            there = await self._agree(used.sequence, None)
            self.made(used.sequence, Journal(there.length))
            return
        layers = len(used.sequence.model.description.layers)
        least = used.journal.least_end(layers)
        there = await self._agree(used.sequence, least)
        if there.length > least:
            # A step that was not answered has committed its tokens. They are brought again, for their answer.
            refusals = await self._truncate(used.sequence, least)
            if isinstance(refusals[0], ServiceError):
                raise refusals[0]
            there = await self._agree(used.sequence, least)
        missing = [used.journal.missing(layer, there.length) for layer in range(layers)]
        if any(chunks is None for chunks in missing):
            if used.first is None or used.first.layer is None:
                self._lose(used, there)
            # Its first step began beyond the end, which is what the ranks answer to it.
            self.made(used.sequence, Journal(there.length))
            return
        for layer, chunks in enumerate(missing):
            attention = used.sequence.model.description.layers[layer]
            row = attention.kv_heads * (attention.key_dim + attention.own_value_dim) * 4
            for chunk in joined(chunks or (), max(_REPLAY_BYTES // row, 1)):
                entry = Entry(used.sequence, chunk.position, chunk.end - chunk.position)
                await self.send(
                    Contents(
                        used.sequence.model,
                        layer,
                        attention,
                        (entry,),
                        None,
                        chunk.dtype,
                        chunk.keys,
                        chunk.values,
                        chunk.dtype,
                        None,
                        False,
                        entry.count,
                    )
                )
        used.epoch = (await self._session.ready_topology()).epoch
        used.is_settled, used.first = True, None

    def _lose(self, used: Used, there: Progress) -> NoReturn:
        layers = range(len(used.sequence.model.description.layers))
        most = max(used.journal.end(layer) for layer in layers)
        used.journal = Journal(there.length)
        used.epoch, used.is_settled, used.first = self._session.epoch, True, None
        name = used.sequence.name
        raise TokensLost(
            f"Sequence `{name}` ends at {there.length} ({there.committed} committed), but this client knew "
            f"of {most} tokens and no longer has the others: send the tokens from {there.length} on again.",
            sequence=name,
            length=there.length,
        )

    async def _agree(self, sequence: Sequence, at_most: int | None) -> Progress:
        """Makes all layers end at one length on all ranks. This client has just claimed the sequence."""
        while True:
            there = await self.status(sequence)
            action, length = resumption(there, at_most)
            if action is Action.SETTLED:
                return there
            if action is Action.REWIND:
                refusals: list[Any] = await self.cut_uncommitted([(sequence, length)])
            else:
                refusals = await self._truncate(sequence, length)
            if isinstance(refusals[0], ServiceError):
                raise refusals[0]

    async def _truncate(self, sequence: Sequence, length: int) -> list[ServiceError | None]:
        return await self._claims.change(
            TRUNCATE_SEQUENCE, [sequence], lambda _, claim: TruncateSequence(sequence.name, length, claim)
        )

    async def status(self, sequence: Sequence) -> Progress:
        """The ranks' status of a sequence."""
        topology = await self._session.ready_topology()
        statuses = (await self.rank_statuses([sequence.id], topology))[sequence.id]
        if len(statuses) < topology.shape.ranks:
            raise UnknownSequence(f"Not every rank has sequence `{sequence.name}`; was it closed meanwhile?")
        return progress([statuses[rank] for rank in sorted(statuses)])

    async def rank_statuses(
        self, sequences: SequenceOf[int], topology: Topology
    ) -> dict[int, dict[int, SequenceStatus]]:
        """Each rank's status of sequences; see `claims.rank_statuses`.

        Raises:
            StaleEpoch: A rank answered in another epoch: it may have lost what this client has.
        """
        found = await rank_statuses(self._session, sequences, topology)
        if self._session.epoch != topology.epoch:
            raise StaleEpoch(f"A rank answered from another epoch than {topology.epoch}; ask again.")
        return found

    async def cut_uncommitted(self, lengths: list[tuple[Sequence, int]]) -> list[int | ServiceError]:
        """Cuts the uncommitted tokens of sequences, each to its length.

        Returns:
            Where each ends then: at what is committed where that is more.
        """
        topology = await self._session.ready_topology()
        results: list[int | ServiceError] = [0] * len(lengths)
        items: list[tuple[int, CutUncommitted]] = []
        for index, (sequence, length) in enumerate(lengths):
            try:
                claim = self._claims.good(sequence.id, topology.epoch)
                if claim is None:
                    claim = await self._claims.keep(sequence)
                items.append((index, CutUncommitted(sequence.id, length, claim)))
            except ServiceError as error:
                results[index] = error
        for start in range(0, len(items), CUT_UNCOMMITTED.items_max):
            some = items[start : start + CUT_UNCOMMITTED.items_max]
            request = CUT_UNCOMMITTED.request
            replies = await self._session.ask_ranks(request, tuple(item for _, item in some), topology)
            for rank, answers in enumerate(replies):
                for (index, _), answer in zip(some, counted(answers, len(some), f"rank {rank}"), strict=True):
                    so_far = results[index]
                    if isinstance(so_far, ServiceError):
                        continue
                    results[index] = answer if isinstance(answer, ServiceError) else max(so_far, answer)
        for result in results:
            if isinstance(result, ServiceError):
                self._session.forget_topology(result)
        return results

    # Steps.

    async def send(self, step: Contents, commits: tuple[IDsOf, ...] = ()) -> AttentionOutput:
        """Sends each rank its part of a step once, with the commit to do after it."""
        session = self._session
        topology = await session.ready_topology()
        claims = [await self._claims.stated(entry.sequence, topology.epoch) for entry in step.entries]
        timeout = session.step_timeout
        parts = await self._claims.commit_parts(commits, topology.epoch)
        frames = step.frames(topology, claims, timeout, parts)
        # The ranks' own deadline ends first, so that the verdict names what was waited for.
        replies = await session.send(STEP_TYPE, frames, topology, timeout=timeout + 2, layer=step.layer)
        return step.joined([StepResult.of(frame) for frame in replies], topology.shape)
