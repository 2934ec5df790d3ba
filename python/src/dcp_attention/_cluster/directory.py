# SPDX-License-Identifier: Apache-2.0

"""Models and sequences, by name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from dcp_attention._cluster.base import ClusterBase
from dcp_attention.values import Fork, Model, PrefixMatch, Retention, Sequence, TokenIDs

if TYPE_CHECKING:
    from dcp_attention.model import ModelDescription


class ClusterDirectory(ClusterBase):
    """The calls that the coordinator answers."""

    # Models.

    def models(self) -> list[Model]:
        """All models."""
        return self._run(self._cluster.models())

    def model(self, name: str) -> Model:
        """The model of that name.

        Raises:
            UnknownModel: There is none.
        """
        return self._run(self._cluster.model(name))

    def register_model(self, name: str, description: ModelDescription) -> Model:
        """Registers a model, or confirms that it is registered as described. Without a revision any is confirmed.

        Raises:
            ModelMismatch: With the differences.
            InvalidModel: It does not fit the cluster.
        """
        return self._run(self._cluster.register_model(name, description))

    def remove_model(self, name: str) -> None:
        """Removes a model that no sequence uses.

        Raises:
            UnknownModel: There is none of that name.
            Conflict: A sequence uses it.
        """
        self._run(self._cluster.remove_model(name))

    # Sequences.

    def open(
        self,
        name: str,
        model: Model | str | None = None,
        *,
        scope: str = "",
        revision: str | None = None,
        create: bool = True,
    ) -> Sequence:
        """Opens a sequence, or creates an empty one. `status` returns its length, `resume` claims it for this client.

        Args:
            name: 1 to 255 bytes, no control characters.
            model: Which model it must have; ``None`` takes whichever it has, and then creates nothing.
            scope: Of a new sequence: who may find it by its tokens; at most 255 bytes.
            revision: What its model's must be; ``None`` takes any.
            create: Whether to make one that does not exist.

        Raises:
            UnknownSequence: It does not exist and is not to be made.
            ModelMismatch: With both models or revisions.
            Conflict: It has another scope.
        """
        return self._run(self._cluster.open(name, model, scope=scope, revision=revision, create=create))

    def open_many(
        self,
        names: Iterable[str],
        model: Model | str | None = None,
        *,
        scope: str = "",
        revision: str | None = None,
        create: bool = True,
    ) -> list[Sequence]:
        """Opens sequences in one request, in the order of their names; see `open`.

        Raises:
            ServiceError: The first that failed; its ``answers`` has every sequence or error.
        """
        return self._run(self._cluster.open_many(names, model, scope=scope, revision=revision, create=create))

    def open_matching(
        self,
        name: str,
        model: Model | str,
        token_ids: TokenIDs,
        *,
        scope: str = "",
        revision: str | None = None,
        longest: int | None = None,
    ) -> tuple[Sequence, int]:
        """Makes a sequence from the longest stored prefix of token ids: a fork of the sequence of that model and scope
        that begins with the most of them, which shares its blocks, or an empty sequence.

        Args:
            name: Of the new sequence.
            model: Of the sequences that are looked at.
            token_ids: From the first token on, as u32.
            scope: Of the sequences that are looked at, and of the new one.
            revision: What the model's must be; ``None`` takes any.
            longest: How many tokens it has at most; ``None`` for all. Fewer than the ids leaves some to be computed.

        Returns:
            The sequence, and how many of the ids it has, committed on every rank: go on from there.

        Raises:
            Conflict: There is a sequence of that name.
            UnknownModel: There is no such model.
            ModelMismatch: With both revisions.
        """
        return self._run(
            self._cluster.open_matching(name, model, token_ids, scope=scope, revision=revision, longest=longest)
        )

    def match(
        self, model: Model | str, token_ids: TokenIDs, *, scope: str = "", revision: str | None = None
    ) -> PrefixMatch | None:
        """The stored sequence of a model and scope that begins with the most of some ids, and with how many; ``None``
        when none begins with the first. Nothing is promised: to use it, call `open_matching`.

        Raises:
            UnknownModel: There is no such model.
            ModelMismatch: With both revisions.
        """
        return self._run(self._cluster.match(model, token_ids, scope=scope, revision=revision))

    def sequences(self) -> list[Sequence]:
        """All sequences that are not being closed, by number."""
        return self._run(self._cluster.sequences())

    def fork(self, parent: Sequence, name: str, length: int) -> Sequence:
        """Makes a new sequence of the first ``length`` tokens of another, which all its layers have, committed or not.
        Blocks are shared, not copied. What is not committed of the one is not of the other: each is committed for
        itself.

        Raises:
            InvalidRequest: A rank has fewer tokens.
            Conflict: There is a sequence of that name.
            Claimed: Another client has taken the parent over from this one.
        """
        return self._run(self._cluster.fork(parent, name, length))

    def fork_many(self, forks: Iterable[Fork]) -> list[Sequence]:
        """Makes new sequences in one request, in the order of ``forks``; see `fork`.

        Raises:
            ServiceError: The first that failed; its ``answers`` has every sequence or error.
        """
        return self._run(self._cluster.fork_many(forks))

    def close_sequences(self, sequences: Iterable[Sequence | str], *, keep: bool = False) -> None:
        """Deletes sequences in one request. Blocks that forks share stay until the last of them is closed.

        Args:
            sequences: Sequences, or their names.
            keep: Leaves them to be found by their tokens until their room is needed; what is not committed is taken
                back.

        Raises:
            ServiceError: The first that failed; its ``answers`` has ``None`` or the error of each.
        """
        self._run(self._cluster.close_sequences(sequences, keep=keep))

    def retain(
        self,
        sequence: Sequence | str,
        *,
        pinned: bool | None = None,
        priority: int | None = None,
        time_to_live: int | None = None,
    ) -> Retention:
        """Changes the retention of a sequence durably; ``None`` leaves a setting unchanged. See `Retention`.

        Raises:
            UnknownSequence: It does not exist.
        """
        return self._run(self._cluster.retain(sequence, pinned=pinned, priority=priority, time_to_live=time_to_live))

    def cut(self, sequences: Sequence | Iterable[Sequence], length: int) -> None:
        """Cuts sequences to their first ``length`` tokens, committed or not. Tokens that are not committed cost one
        round trip.

        Raises:
            PositionMismatch: A layer has fewer tokens.
            ServiceError: The first that failed; its ``answers`` has ``None`` or the error of each.
        """
        self._run(self._cluster.cut(sequences, length))

    def cut_many(self, lengths: Iterable[tuple[Sequence, int]]) -> None:
        """Cuts sequences, each to its own length; see `cut`."""
        self._run(self._cluster.cut_many(lengths))

    def resume(self, sequence: Sequence, *, at_most: int | None = None) -> int:
        """Takes a sequence over, from another client or another process, and makes the ranks agree on it: what is
        under way ends, and all layers are cut to what every rank has of all of them.

        Args:
            sequence: Which one.
            at_most: How many tokens are kept at most; never below what is committed. ``None`` keeps what all have.

        Returns:
            Where all layers end: go on from there. What lies beyond `Progress.committed` is not durable yet, and not
            in this client's hands: pass ``at_most=0`` to give it up.
        """
        return self._run(self._cluster.resume(sequence, at_most=at_most))
