# SPDX-License-Identifier: Apache-2.0

"""The rows of a batch, and the sequences that they are in the cluster."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from dcp_attention import Commit, Entry, Evicted, Fork, Sequence, ServiceError, TokensLost, UnknownSequence

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Sequence as SequenceOf

    from dcp_attention import Cluster, Model

# What the coordinator takes.
_NAME_BYTES_MAX = 255


@dataclass
class Row:
    """One row of a batch.

    Attributes:
        sequence: Its tokens, without padding.
        padding: Tokens of left padding before them.
        length: How many tokens it has in all layers.
        committed: How many of them are durable.
        ids: What its tokens are called; ``None`` when that is not known of all of them.
        is_longer: Whether the daemons have tokens beyond ``length`` that are still to be cut.
    """

    sequence: Sequence
    padding: int = 0
    length: int = 0
    committed: int = 0
    ids: list[int] | None = field(default_factory=list)
    is_longer: bool = False

    def entry(self, start: int, count: int) -> Entry | None:
        """The row's part of a step that brings tokens ``start ..< start + count`` of the padded batch; none if all
        are padding.
        """
        position = max(0, start - self.padding)
        fresh = start + count - self.padding - position
        return Entry(self.sequence, position, fresh) if fresh > 0 else None

    def cut(self, length: int) -> None:
        """Forgets the tokens from ``length`` on."""
        self.length = length
        self.committed = min(self.committed, length)
        if self.ids is not None:
            del self.ids[length:]
        elif length == 0:
            self.ids = []


class Rows:
    """The rows of a cache's batch."""

    def __init__(self, cluster: Cluster, names: SequenceOf[str], scope: str) -> None:
        self._cluster = cluster
        self._names = list(names)
        self._scope = scope
        self._unused: list[Sequence] = []  # of no row any more, and not closed yet
        self.all: list[Row] = []

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the sequences of the batch's rows, existing or new."""
        return tuple(row.sequence.name for row in self.all) or tuple(self._names)

    # Where rows come from.

    def take_up(
        self, tokens: SequenceOf[SequenceOf[int]] | None, check: Callable[[Sequence], None] | None = None
    ) -> None:
        """Takes up stored sequences of these names; none are made. What the daemons have beyond the rows is left to
        `trim`: a model that is refused then has cut nothing.

        Args:
            tokens: For each row the ids of the tokens that are to follow each other, without padding. Rows end with
                what they have in common with them, but the last one, which is always computed. ``None`` takes rows as
                they are.
            check: Raises an error for a sequence that may not be used, before it is claimed.
        """
        self.all = [row for name in self._names if (row := self._stored(name, check)) is not None]
        if self.all and len(self.all) < len(self._names):
            raise ValueError(
                f"Of the sequences {', '.join(self._names)} some are stored and some are not; use names that are all "
                "new, or all stored."
            )
        if len(self._names) == 1 and not self.all:  # perhaps `make` gave the name to the rows of a batch
            while _fits(name := f"{self._names[0]}/{len(self.all)}") and (row := self._stored(name, check)) is not None:
                self.all.append(row)
        if tokens is None or not self.all:
            self.align()
            return
        if len(tokens) != len(self.all):
            raise ValueError(
                f"There are token ids of {len(tokens)} rows for {len(self.all)} stored sequences; pass those of each."
            )
        longest = max(map(len, tokens))
        for row, ids in zip(self.all, tokens, strict=True):
            row.padding = longest - len(ids)
        kept = min(row.padding + _common(row.ids or [], ids[:-1]) for row, ids in zip(self.all, tokens, strict=True))
        for row in self.all:
            end = max(0, kept - row.padding)
            row.is_longer = row.is_longer or end < row.length
            row.cut(end)

    def trim(self) -> None:
        """Cuts what the daemons have beyond the rows that `take_up` has found."""
        self.cut([row.length for row in self.all])

    def _stored(self, name: str, check: Callable[[Sequence], None] | None) -> Row | None:
        """What is committed of a sequence, after claiming it."""
        try:
            sequence = self._cluster.open(name, create=False, scope=self._scope)
        except UnknownSequence:
            return None
        if check is not None:
            check(sequence)
        length = self._cluster.resume(sequence, at_most=0)
        status = self._cluster.status(sequence)
        # A commit whose client died has reached some ranks: the others have the last tokens, without their ids.
        known = min(length, status.committed)
        ids = self._cluster.token_ids(sequence, 0, known).tolist() if status.token_ids >= known else None
        return Row(sequence, length=known, committed=known, ids=ids, is_longer=known < length)

    def align(self) -> None:
        """Pads rows of different lengths on the left, as a batch whose rows went on together has them."""
        longest = max((row.length for row in self.all), default=0)
        for row in self.all:
            row.padding = longest - row.length

    def make(self, model: Model, count: int) -> None:
        """Makes empty sequences for a batch of ``count`` rows: NAME, or NAME/0, NAME/1 and so on."""
        if len(self._names) == 1 and count > 1:
            self._names = [f"{self._names[0]}/{row}" for row in range(count)]
        if len(self._names) != count:
            raise ValueError(
                f"A batch of {count} rows needs as many names of sequences, or one; there are {len(self._names)}."
            )
        self.close_unused()  # a deleted sequence of one of these names would be taken for a new one
        self.all = [Row(sequence) for sequence in self._cluster.open_many(self._names, model, scope=self._scope)]

    # What becomes of them.

    def commits(self) -> list[Commit]:
        """The commits that make all tokens durable, with their ids if these are known."""
        return [
            Commit(row.sequence, row.length, None if row.ids is None else row.ids[row.committed : row.length])
            for row in self.all
            if row.length > row.committed
        ]

    def committed(self) -> None:
        """All tokens are durable."""
        for row in self.all:
            row.committed = row.length

    def commit(self) -> None:
        """Makes all tokens durable."""
        commits = self.commits()
        if commits:
            self._cluster.commit(commits)
            self.committed()

    def cut(self, lengths: SequenceOf[int]) -> None:
        """Cuts each row to a length."""
        cuts = [
            (row.sequence, length)
            for row, length in zip(self.all, lengths, strict=True)
            if length < row.length or row.is_longer
        ]
        if cuts:
            self._cluster.cut_many(cuts)
        for row, length in zip(self.all, lengths, strict=True):
            row.cut(length)
            row.is_longer = False

    def even(self, length: int) -> int:
        """Rolls back the tokens that an incomplete forward pass appended to some layers.

        Args:
            length: Of the batch before that pass, padding counted.

        Returns:
            Its length now: less than that only if tokens are lost for good.
        """
        kept = min(length, *(row.padding + left for row, left in zip(self.all, self._left(), strict=True)))
        lengths = [max(0, kept - row.padding) for row in self.all]
        # A cut, and no resumption: the client keeps its uncommitted tokens, for the outages that are still to come.
        self._cluster.cut_many([(row.sequence, end) for row, end in zip(self.all, lengths, strict=True)])
        for row, end in zip(self.all, lengths, strict=True):
            row.cut(end)
        return kept

    def _left(self) -> list[int]:
        """How much of each row the ranks have, or get from the client before they are asked."""
        while True:
            try:
                there = self._cluster.statuses([row.sequence for row in self.all])
            except TokensLost:  # of one row, once; what it has left is told next
                continue
            found = [there.get(row.sequence.id) for row in self.all]
            # One that is not on every rank is refused by name, when it is cut.
            return [
                row.length if progress is None else min(row.length, progress.length)
                for row, progress in zip(self.all, found, strict=True)
            ]

    def select(self, parents: SequenceOf[int]) -> None:
        """Replaces row i by row ``parents[i]``: keeps, forks or closes sequences.

        A sequence that cannot be closed now is no error here: who gets one selects again, and would have rows that are
        in their new order reordered once more. It is closed with the next ones, or by `close_unused`, which tells.
        """
        if list(parents) == list(range(len(self.all))):
            return
        taken: set[int] = set()
        forks: list[tuple[int, Fork]] = []
        for place, parent in enumerate(parents):
            row = self.all[parent]
            if parent in taken:
                forks.append((place, Fork(row.sequence, fork_name(row.sequence.name), row.length)))
            taken.add(parent)
        forked = self._fork([fork for _, fork in forks])
        made = {place: sequence for (place, _), sequence in zip(forks, forked, strict=True)}
        self._unused += [row.sequence for index, row in enumerate(self.all) if index not in taken]
        self.all = [
            self.all[parent] if place not in made else _forked(self.all[parent], made[place])
            for place, parent in enumerate(parents)
        ]
        self._close_unused()

    def fork(self, names: SequenceOf[str]) -> list[Row]:
        """Forks of all rows, under names."""
        forks = [Fork(row.sequence, name, row.length) for row, name in zip(self.all, names, strict=True)]
        return [_forked(row, sequence) for row, sequence in zip(self.all, self._fork(forks), strict=True)]

    def _fork(self, forks: list[Fork]) -> list[Sequence]:
        """Makes all of some forks. Those that a failed call has made are of no row, and are closed with the next."""
        if not forks:
            return []
        self._close_unused()  # some may have these names
        try:
            return self._cluster.fork_many(forks)
        except ServiceError as error:
            self._unused += [answer for answer in error.answers if isinstance(answer, Sequence)]
            raise

    def delete(self) -> None:
        """Closes all sequences.

        Raises:
            ServiceError: As of `close_unused`, which goes on with it.
        """
        self._unused += [row.sequence for row in self.all]
        self.all = []
        self.close_unused()

    def close_unused(self) -> None:
        """Closes the sequences that rows have had, and that could not be closed then.

        Raises:
            ServiceError: The first that fails again. Only what may succeed later is tried by the next call.
        """
        failures = self._close_unused()
        if failures:
            self._unused = [sequence for sequence, error in failures if error.is_retryable]
            raise failures[0][1]

    def _close_unused(self) -> list[tuple[Sequence, ServiceError]]:
        if not self._unused:
            return []
        failures: list[tuple[Sequence, ServiceError]] = []
        try:
            self._cluster.close_sequences(self._unused)
        except ServiceError as error:
            failures = [
                (sequence, answer)
                for sequence, answer in zip(self._unused, error.answers, strict=True)
                # One that somebody else has closed, or that was evicted, is closed.
                if isinstance(answer, ServiceError) and not isinstance(answer, (UnknownSequence, Evicted))
            ]
        self._unused = [sequence for sequence, _ in failures]
        return failures


def _fits(name: str) -> bool:
    return len(name.encode()) <= _NAME_BYTES_MAX


def fork_name(name: str) -> str:
    """A unique name for a fork, with as much of the name as names have room for."""
    unique = f"~{secrets.token_hex(6)}"
    return name.split("~")[0].encode()[: _NAME_BYTES_MAX - len(unique)].decode(errors="ignore") + unique


def _forked(row: Row, sequence: Sequence) -> Row:
    """The row of a fork. Tokens that are uncommitted in the parent are uncommitted in the fork."""
    return Row(sequence, row.padding, row.length, row.committed, None if row.ids is None else list(row.ids))


def _common(one: SequenceOf[int], other: SequenceOf[int]) -> int:
    """How many elements two lists begin with alike."""
    for index, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return index
    return min(len(one), len(other))


def is_counted(entry: Entry, positions: torch.Tensor, row: int) -> bool:
    """Whether a model counts an entry's tokens from the first token of its sequence.

    Args:
        entry: Of the last tokens of the row.
        positions: ``[..., 1 or B, T]``, where the model puts the tokens of a forward pass.
        row: Of the batch.
    """
    first = positions[..., row if positions.shape[-2] > 1 else 0, positions.shape[-1] - entry.count :]
    counted = torch.arange(entry.position, entry.position + entry.count, device=first.device)
    return first.shape[-1] == entry.count and bool((first == counted).all())


def token_lists(tokens: Any) -> list[list[int]]:
    """Token ids of each row, from a tensor or lists, of one row or of more."""
    rows: list[Any] = tokens.tolist() if hasattr(tokens, "tolist") else list(tokens)
    return [list(map(int, row)) for row in (rows if rows and not isinstance(rows[0], int) else [rows])]
