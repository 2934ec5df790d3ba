# SPDX-License-Identifier: Apache-2.0

"""Models and sequences, by name."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as SequenceOf
from typing import TypeVar

from dcp_attention._client.attention import checked_ids
from dcp_attention._client.claims import Claims
from dcp_attention._client.journal import Journal
from dcp_attention._client.keeper import Keeper
from dcp_attention._client.session import Session
from dcp_attention._client.stored import Stored
from dcp_attention._wire.codec import LENGTH, check
from dcp_attention._wire.records import Listing, ListSequences, SequenceRecord
from dcp_attention._wire.requests import (
    CLOSE_SEQUENCE,
    FORK_SEQUENCE,
    LIST_MODELS,
    LIST_SEQUENCES,
    LIST_SEQUENCES_MAX,
    OPEN_MATCHING,
    OPEN_SEQUENCE,
    REGISTER_MODEL,
    REMOVE_MODEL,
    RETAIN_SEQUENCE,
    TRUNCATE_SEQUENCE,
    CloseSequence,
    ForkSequence,
    Many,
    Named,
    OpenMatching,
    OpenSequence,
    RegisterModel,
    RetainSequence,
    TruncateSequence,
)
from dcp_attention.errors import (
    Conflict,
    InternalError,
    InvalidRequest,
    ServiceError,
    StaleEpoch,
    UnknownModel,
    UnknownSequence,
)
from dcp_attention.model import ModelDescription
from dcp_attention.values import Fork, Model, Retention, Sequence, TokenIDs

Q = TypeVar("Q")
R = TypeVar("R")


class Directory:
    """The coordinator's directory. Items that fail retryably are sent again; an error that is not retryable ends
    the call when all others are done.
    """

    def __init__(self, session: Session, claims: Claims, keeper: Keeper, stored: Stored) -> None:
        self._session = session
        self._claims = claims
        self._keeper = keeper
        self._stored = stored

    # Models.

    async def models(self) -> list[Model]:
        """All models."""
        return list(await self._keeper.persist((), lambda _: self._session.ask(LIST_MODELS, None)))

    async def model(self, name: str) -> Model:
        """The model of that name."""
        for model in await self.models():
            if model.name == name:
                return model
        raise UnknownModel(f"There is no model `{name}`; register it, or correct the name.")

    async def register_model(self, name: str, description: ModelDescription) -> Model:
        """Registers a model, or confirms that it is as described."""
        return (await self._each(REGISTER_MODEL, [RegisterModel(name, description)]))[0]

    async def remove_model(self, name: str) -> None:
        """Removes a model that no sequence uses."""

        async def attempt(number: int) -> None:
            (answer,) = await self._session.ask_each(REMOVE_MODEL, [Named(name)])
            # Asked a second time, it may be gone because of the first.
            if isinstance(answer, ServiceError) and not (number > 0 and isinstance(answer, UnknownModel)):
                raise answer

        await self._keeper.persist((), attempt)

    # Sequences.

    async def open_many(
        self, names: Iterable[str], model: Model | str | None, scope: str, revision: str | None, create: bool
    ) -> list[Sequence]:
        """Opens sequences."""
        wanted = "" if model is None else model_name(model)
        items = [OpenSequence(name, wanted, revision or "", scope, create and model is not None) for name in names]
        return [_sequence(opened.sequence, opened.model) for opened in await self._each(OPEN_SEQUENCE, items)]

    async def open_matching(
        self,
        name: str,
        model: Model | str,
        token_ids: TokenIDs,
        scope: str,
        revision: str | None,
        longest: int | None,
    ) -> tuple[Sequence, int]:
        """Makes a sequence from the longest stored prefix of some ids."""
        ids = checked_ids(token_ids)
        most = len(ids) if longest is None else longest
        item = OpenMatching(name, model_name(model), revision or "", scope, ids, most)

        async def attempt(number: int) -> tuple[Sequence, int]:
            (answer,) = await self._session.ask_each(OPEN_MATCHING, [item])
            if number > 0 and isinstance(answer, Conflict):
                return await self._made_before(item)
            if isinstance(answer, ServiceError):
                raise answer
            sequence = _sequence(answer.sequence, answer.model)
            self._claims.given(sequence.id, answer.claim)
            self._keeper.made(sequence, Journal(answer.length))
            return sequence, answer.length

        return await self._keeper.persist((), attempt)

    async def _made_before(self, item: OpenMatching) -> tuple[Sequence, int]:
        """The sequence that an earlier attempt has made, whose answer was lost; a sequence of another client is not
        promised, so its ids are compared.
        """
        (sequence,) = await self.open_many([item.name], item.model, item.scope, item.revision, False)
        there = await self._keeper.status(sequence)
        length = min(there.committed, there.token_ids, item.longest)
        stored = await self._stored.token_ids(sequence, 0, length)
        if there.length > length or tuple(stored.tolist()) != item.ids[:length]:
            raise Conflict(f"There is a sequence `{item.name}` with other tokens; choose another name.")
        await self._keeper.take_over(sequence, length)
        return sequence, length

    async def sequences(self) -> list[Sequence]:
        """All sequences that are not being closed."""
        found: list[Sequence] = []
        page = ListSequences("", 0, LIST_SEQUENCES_MAX)
        while True:
            listing = await self._page(page)
            models = {model.id: model for model in listing.models}
            for element in listing.sequences:
                model = models.get(element.record.model)
                if model is None:
                    raise InternalError(
                        f"Sequence `{element.record.name}` has the unlisted model #{element.record.model}; report it."
                    )
                found.append(_sequence(element.record, model, element.retention))
            if not listing.next:
                return found
            page = ListSequences("", listing.next, LIST_SEQUENCES_MAX)

    async def _page(self, page: ListSequences) -> Listing:
        return await self._keeper.persist((), lambda _: self._session.ask(LIST_SEQUENCES, page))

    async def fork(self, forks: Iterable[Fork]) -> list[Sequence]:
        """Makes sequences of the first tokens of others."""
        forks = tuple(forks)

        async def attempt(number: int, some: list[int]) -> list[Sequence | ServiceError]:
            answers = await self._claims.change(
                FORK_SEQUENCE,
                [forks[index].parent for index in some],
                lambda place, claim: ForkSequence(
                    forks[some[place]].parent.name, forks[some[place]].name, forks[some[place]].length, claim
                ),
            )
            answers = await self._explained(answers)
            return [
                await self._forked(forks[index], answer, number) for index, answer in zip(some, answers, strict=True)
            ]

        return await self._keeper.persist_each([fork.parent for fork in forks], attempt)

    async def _explained(self, answers: list[SequenceRecord | ServiceError]) -> list[SequenceRecord | ServiceError]:
        """A fork of more than a rank has: the coordinator does not compare epochs, and the membership may have changed
        with nobody having told this client that a rank came back without what was not committed.
        """
        if not any(isinstance(answer, InvalidRequest) for answer in answers):
            return answers
        known = self._session.epoch
        if (await self._session.topology()).epoch == known:
            return answers
        return [
            StaleEpoch(answer.message, rank=answer.rank) if isinstance(answer, InvalidRequest) else answer
            for answer in answers
        ]

    async def _forked(self, fork: Fork, answer: SequenceRecord | ServiceError, number: int) -> Sequence | ServiceError:
        """The outcome of a fork. A fork's name belongs to its maker: a name taken in a later attempt was used by an
        earlier one, whose fork may be shorter than requested.
        """
        if isinstance(answer, Conflict) and number > 0:
            (child,) = await self.open_many([fork.name], fork.parent.model, fork.parent.scope, None, False)
        elif isinstance(answer, ServiceError):
            return answer
        else:
            child = _sequence(answer, fork.parent.model)
        parent = self._keeper.get(fork.parent)
        journal = Journal(fork.length) if parent is None else parent.journal.forked(fork.length)
        if number == 0:
            self._keeper.made(child, journal)
        else:
            self._keeper.found(child, journal)
        return child

    async def close(self, sequences: Iterable[Sequence | str], keep: bool) -> None:
        """Deletes sequences, or leaves them to be found by their tokens."""
        given = list(sequences)
        names = [sequence for sequence in given if isinstance(sequence, str)]
        opened = iter(await self.open_many(names, None, "", None, False) if names else ())
        known = [next(opened) if isinstance(sequence, str) else sequence for sequence in given]

        async def attempt(number: int, some: list[int]) -> list[ServiceError | None]:
            answers = await self._claims.change(
                CLOSE_SEQUENCE,
                [known[index] for index in some],
                lambda place, claim: CloseSequence(known[some[place]].name, claim, keep),
            )
            for place, (index, answer) in enumerate(zip(some, answers, strict=True)):
                if number > 0 and isinstance(answer, UnknownSequence):
                    answers[place] = None
                if answers[place] is None:
                    self._keeper.drop(known[index])
            return answers

        await self._keeper.persist_each(known, attempt, prepares=False)

    async def retain(
        self, sequence: Sequence | str, pinned: bool | None, priority: int | None, time_to_live: int | None
    ) -> Retention:
        """Changes the retention of a sequence."""
        name = sequence if isinstance(sequence, str) else sequence.name
        return (await self._each(RETAIN_SEQUENCE, [RetainSequence(name, pinned, priority, time_to_live)]))[0]

    async def cut(self, lengths: Iterable[tuple[Sequence, int]]) -> None:
        """Cuts sequences to their first tokens, committed or not."""
        wanted = list(lengths)
        for _, length in wanted:
            check(LENGTH, "length", length)

        def forget(some: list[int]) -> None:
            for index in some:
                sequence, length = wanted[index]
                used = self._keeper.get(sequence)
                if used is not None:
                    used.journal.cut(length)

        async def attempt(_: int, some: list[int]) -> list[ServiceError | None]:
            # Before the ranks get what this client knows: what is cut is not sent again, nor missed when it is lost.
            forget(some)
            await self._keeper.prepare(wanted[index][0] for index in some)
            # And after it: of a sequence whose end was only guessed, that has found the end.
            forget(some)
            ends = await self._keeper.cut_uncommitted([wanted[index] for index in some])
            results: list[ServiceError | None] = [end if isinstance(end, ServiceError) else None for end in ends]
            longer = [
                place
                for place, (index, end) in enumerate(zip(some, ends, strict=True))
                if not isinstance(end, ServiceError) and end > wanted[index][1]
            ]
            if longer:
                answers = await self._claims.change(
                    TRUNCATE_SEQUENCE,
                    [wanted[some[place]][0] for place in longer],
                    lambda number, claim: TruncateSequence(
                        wanted[some[longer[number]]][0].name, wanted[some[longer[number]]][1], claim
                    ),
                )
                for place, answer in zip(longer, answers, strict=True):
                    results[place] = answer
            return results

        await self._keeper.persist_each([sequence for sequence, _ in wanted], attempt, prepares=False)

    async def _each(self, many: Many[Q, R], items: SequenceOf[Q]) -> list[R]:
        """Sends requests that may be repeated."""

        async def attempt(_: int, some: list[int]) -> list[R | ServiceError]:
            return await self._session.ask_each(many, [items[index] for index in some])

        return await self._keeper.persist_each([None] * len(items), attempt)


def model_name(model: Model | str) -> str:
    """The name of a model, or of one that is given by its name."""
    return model if isinstance(model, str) else model.name


def _sequence(record: SequenceRecord, model: Model, retention: Retention | None = None) -> Sequence:
    return Sequence(record.id, record.name, model, record.scope, retention or Retention())
