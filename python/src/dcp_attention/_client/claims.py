# SPDX-License-Identifier: Apache-2.0

"""Claims: this client may change a sequence after claiming it, until another client claims it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from dcp_attention._client.session import Session, counted
from dcp_attention._io.forks import in_children
from dcp_attention._wire.requests import (
    CLAIM_SEQUENCE,
    SEQUENCE_STATUS,
    ClaimSequence,
    CommitPart,
    Many,
    SequenceStatus,
    StartedIDs,
)
from dcp_attention.errors import Claimed, ServiceError, StaleEpoch
from dcp_attention.values import Commit, Sequence, Topology

Q = TypeVar("Q")
R = TypeVar("R")

IDsOf: TypeAlias = "tuple[Commit, StartedIDs | None]"
"""A commit with its ids as the wire has them."""


@dataclass(slots=True)
class Claim:
    """A claim of this client.

    Attributes:
        value: The epoch's low 32 bits above a counter.
        is_spent: A request with it is not answered and may still come to the coordinator: the sequence is claimed anew
            before the next one.
        has_successor: A later one was asked for and is not answered: ranks may know of it.
    """

    value: int
    is_spent: bool = False
    has_successor: bool = False

    def is_of(self, epoch: int) -> bool:
        """Whether it is good in an epoch."""
        return self.value >> 32 == epoch & 0xFFFF_FFFF


class Claims:
    """The claims that this client has, by the sequences' numbers."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._held: dict[int, Claim] = {}
        in_children(self, Claims.forked)

    def forked(self) -> None:
        """In a child process: the claims are the parent's."""
        self._held = {}

    def drop(self, sequence: int) -> None:
        """The sequence is closed."""
        self._held.pop(sequence, None)

    def given(self, sequence: int, value: int) -> None:
        """The coordinator has given a claim with something else."""
        self._held[sequence] = Claim(value)

    def good(self, sequence: int, epoch: int) -> int | None:
        """The claim to state in a request of an epoch, when there is one that is good in it."""
        held = self._held.get(sequence)
        return held.value if held is not None and not held.is_spent and held.is_of(epoch) else None

    def is_over(self, sequence: int, epoch: int) -> bool:
        """Whether there was a claim, and none that is good in an epoch."""
        return sequence in self._held and self.good(sequence, epoch) is None

    async def commit_parts(self, commits: Iterable[IDsOf], epoch: int) -> tuple[CommitPart, ...]:
        """The commits as ranks expect them.

        Raises:
            StaleEpoch: As of `stated`.
        """
        return tuple(
            [
                CommitPart(
                    commit.sequence.id,
                    commit.length,
                    await self.stated(commit.sequence, epoch),
                    ids,
                    commit.annotation,
                )
                for commit, ids in commits
            ]
        )

    async def stated(self, sequence: Sequence, epoch: int) -> int:
        """The claim to state; a sequence that was not used yet is claimed.

        Raises:
            StaleEpoch: The claim is of another epoch, or spent: the ranks have to be made to agree first.
        """
        claim = self.good(sequence.id, epoch)
        if claim is not None:
            return claim
        if sequence.id in self._held:
            self._session.forget_topology()
            raise StaleEpoch(f"The claim on sequence `{sequence.name}` is not of epoch {epoch}; resume the sequence.")
        return await self.take(sequence)

    async def take(self, sequence: Sequence, held: int = 0) -> int:
        """Claims a sequence.

        Args:
            sequence: Which one.
            held: The claim to go on from; 0 takes the sequence over from whoever has it.

        Raises:
            Claimed: Another client has claimed it since.
        """
        known = self._held.get(sequence.id)
        had_successor = known is not None and known.has_successor
        if known is not None:
            # Until the answer is noted: an interruption may come at any point before.
            known.has_successor = True
        try:
            (answer,) = await self._session.ask_each(CLAIM_SEQUENCE, [ClaimSequence(sequence.id, held)])
            if isinstance(answer, ServiceError):
                raise answer
        except ServiceError as error:
            if known is not None and not error.is_retryable:
                known.has_successor = had_successor
            raise
        claim = Claim(answer)
        if not claim.is_of(self._session.epoch):
            # The coordinator, which gave it, is ahead of the topology that is known.
            self._session.forget_topology()
        self._held[sequence.id] = claim
        return answer

    async def keep(self, sequence: Sequence) -> int:
        """Claims a sequence anew that this client had a claim on, or has never used.

        Raises:
            Claimed: Another client has claimed it since.
        """
        held = self._held.get(sequence.id)
        if held is None:
            return await self.take(sequence)
        # What the coordinator may have forgotten over a restart, ranks and their stores remember. They do not tell a
        # later claim of this client, whose answer was lost, from another's; the coordinator does.
        if not held.has_successor:
            topology = await self._session.ready_topology()
            statuses = await rank_statuses(self._session, [sequence.id], topology)
            latest = max((status.claim for status in statuses[sequence.id].values()), default=0)
            if latest > held.value:
                raise Claimed(
                    f"Sequence `{sequence.name}` was claimed by another client ({latest:#x}) after {held.value:#x}. "
                    "Only one client at a time may use a sequence; resume it to take it over."
                )
        return await self.take(sequence, held.value)

    async def change(
        self, many: Many[Q, R], sequences: SequenceOf[Sequence], item: Callable[[int, int], Q]
    ) -> list[R | ServiceError]:
        """Asks the coordinator to change sequences, with this client's claims or new ones.

        Args:
            many: The request.
            sequences: Which ones; one may come several times.
            item: What to ask for about the sequence at an index, with the claim on it.

        Returns:
            In the order of the sequences: each is changed or refused by itself.
        """
        answers: dict[int, R | ServiceError] = {}
        known: list[tuple[int, int]] = []
        for index, sequence in enumerate(sequences):
            held = self._held.get(sequence.id)
            if held is not None and not held.is_spent:
                known.append((index, held.value))
        first: list[R | ServiceError] = await self._ask(many, sequences, known, item)
        for (index, _), answer in zip(known, first, strict=True):
            # Of before the coordinator's restart: it is claimed anew below.
            if not isinstance(answer, StaleEpoch):
                answers[index] = answer
        anew: list[tuple[int, int]] = []
        fresh: dict[int, int] = {}
        for index, sequence in enumerate(sequences):
            if index in answers:
                continue
            try:
                if sequence.id not in fresh:
                    fresh[sequence.id] = await self.keep(sequence)
                anew.append((index, fresh[sequence.id]))
            except ServiceError as error:
                answers[index] = error
        second: list[R | ServiceError] = await self._ask(many, sequences, anew, item)
        for (index, _), answer in zip(anew, second, strict=True):
            answers[index] = answer
        return [answers[index] for index in range(len(sequences))]

    async def _ask(
        self,
        many: Many[Q, R],
        sequences: SequenceOf[Sequence],
        parts: list[tuple[int, int]],
        item: Callable[[int, int], Q],
    ) -> list[R | ServiceError]:
        """Without an answer the request may still come to the coordinator. The claim is spent with it: the next one
        fences the request off, or waits for it.
        """
        if not parts:
            return []
        asked = [sequences[index].id for index, _ in parts]
        # Until the answers are here: an interruption may come at any point before.
        self._spend(asked)
        try:
            answers = await self._session.ask_each(many, [item(index, claim) for index, claim in parts])
        except ServiceError as error:
            if not error.is_retryable:
                self._spend(asked, is_spent=False)
            raise
        self._spend(asked, is_spent=False)
        self._spend(
            sequence
            for sequence, answer in zip(asked, answers, strict=True)
            if isinstance(answer, ServiceError) and answer.is_retryable
        )
        return answers

    def _spend(self, sequences: Iterable[int], *, is_spent: bool = True) -> None:
        for sequence in sequences:
            held = self._held.get(sequence)
            if held is not None:
                held.is_spent = is_spent


async def rank_statuses(
    session: Session, sequences: SequenceOf[int], topology: Topology
) -> dict[int, dict[int, SequenceStatus]]:
    """What each rank that has a sequence says of it: by sequence, then by rank. Left out is what is not there, or
    damaged.
    """
    found: dict[int, dict[int, SequenceStatus]] = {sequence: {} for sequence in sequences}
    for start in range(0, len(sequences), SEQUENCE_STATUS.items_max):
        some = tuple(sequences[start : start + SEQUENCE_STATUS.items_max])
        replies = await session.ask_ranks(SEQUENCE_STATUS.request, some, topology)
        for rank, answers in enumerate(replies):
            for sequence, answer in zip(some, counted(answers, len(some), f"rank {rank}"), strict=True):
                if isinstance(answer, SequenceStatus):
                    found[sequence][rank] = answer
    return found
