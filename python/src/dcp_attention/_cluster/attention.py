# SPDX-License-Identifier: Apache-2.0

"""Attention and stored data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from dcp_attention._cluster.base import ClusterBase
from dcp_attention.values import (
    AttentionOutput,
    CachedRows,
    Commit,
    Entry,
    Progress,
    QueryMode,
    Sequence,
    Transfer,
)

if TYPE_CHECKING:
    import os

    import numpy as np
    import numpy.typing as npt

    from dcp_attention.model import DType
    from dcp_attention.tensors import Tensor


class ClusterAttention(ClusterBase):
    """The calls that the ranks answer."""

    # Attention.

    def step(
        self,
        layer: int,
        entries: Iterable[Entry],
        q: Tensor,
        k: Tensor,
        v: Tensor | None = None,
        *,
        lse: bool = True,
        query_mode: QueryMode | None = None,
        commits: Iterable[Commit] = (),
    ) -> AttentionOutput:
        """One attention call for one layer: appends the entries' keys and values to their sequences, and answers with
        the exact causal attention of the queries over everything before and among them.

        Tensors are numpy arrays, torch tensors or anything with ``__dlpack__``, in f32, f16 or bf16 (u16 is taken as
        the bits of bf16), of any strides: one whose heads come first in memory, as ``x.transpose(...)`` of ``[H, T,
        D]``, is not copied but for the journal. More than a frame holds is sent as several steps.

        Args:
            layer: Which layer of the entries' model, from 0.
            entries: Sequences of one model, each once, with the position where its layer ends and how many tokens it
                brings.
            q: ``[tokens, Hq, Dk]``, the entries' tokens one after the other.
            k: ``[tokens, Hkv, Dk]``.
            v: ``[tokens, Hkv, Dv]``, of the dtype of ``k``; ``None`` where values are a part of the keys.
            lse: Whether the answer has log-sum-exps.
            query_mode: Whether ranks gather the queries, or are each sent all of their group's; ``None`` takes what
                costs less. The answer has the same bits.
            commits: What every rank commits, as `commit` would, when the step's tokens are in place; the answer comes
                when that is durable. All layers must have reached the lengths with this step, so its own tokens are
                committed with the last layer's.

        Raises:
            InvalidRequest: A tensor is not of the layer's shape, or has a number that is NaN, infinite or beyond its
                limit.
            PositionMismatch: An entry does not begin where its layer ends, with both numbers.
            Claimed: Another client has taken a sequence over.
            TokensLost: An outage took tokens that this client does not have.
            RetryableError: The cluster did not answer within ``retry_for``.
        """
        return self._run(self._cluster.step(layer, entries, q, k, v, lse=lse, query_mode=query_mode, commits=commits))

    def append(self, layer: int, entries: Iterable[Entry], k: Tensor, v: Tensor | None = None) -> None:
        """Appends keys and values of one layer without attention, under the rules of `step`. Each rank is sent the
        tokens that it owns, and no others.
        """
        self._run(self._cluster.append(layer, entries, k, v))

    def query(
        self,
        layer: int,
        entries: Iterable[Entry],
        q: Tensor,
        *,
        lse: bool = True,
        query_mode: QueryMode | None = None,
    ) -> AttentionOutput:
        """Attention alone: answers as `step` would have, had it brought the entries' tokens, which are in the layer
        already. For layers that use another layer's keys and values. Nothing is changed.

        Raises:
            PositionMismatch: A position is not in the layer, with both numbers.
        """
        return self._run(self._cluster.query(layer, entries, q, lse=lse, query_mode=query_mode))

    def commit(self, commits: Iterable[Commit]) -> None:
        """Makes the first tokens of sequences durable on every rank: all of one rank in one transaction, or none.

        Raises:
            PositionMismatch: A layer has not reached a length, or ids would leave a gap.
            Conflict: Ids contradict stored ones.
            InvalidRequest: Too many or too few ids, or too long an annotation.
        """
        self._run(self._cluster.commit(commits))

    # What is stored.

    def status(self, sequence: Sequence) -> Progress:
        """What the ranks hold of a sequence.

        Raises:
            UnknownSequence: Not every rank has it.
        """
        return self._run(self._cluster.status(sequence))

    def statuses(self, sequences: Iterable[Sequence]) -> dict[int, Progress]:
        """The ranks' status of sequences, by their numbers; a sequence that is not on every rank is omitted."""
        return self._run(self._cluster.statuses(sequences))

    def token_ids(self, sequence: Sequence, start: int = 0, count: int | None = None) -> npt.NDArray[np.uint32]:
        """Token ids as they were committed, u32.

        Args:
            sequence: Whose.
            start: The position of the first.
            count: How many; ``None`` for all that there are.

        Raises:
            PositionMismatch: Beyond those it has.
        """
        return self._run(self._cluster.token_ids(sequence, start, count))

    def annotation(self, sequence: Sequence) -> bytes | None:
        """The annotation of a sequence at its last commit; ``None`` if it has none."""
        return self._run(self._cluster.annotation(sequence))

    def rows(self, sequence: Sequence, layer: int, start: int = 0, count: int | None = None) -> CachedRows:
        """Committed keys and values of one layer, bit by bit as they are attended to.

        Args:
            sequence: Whose.
            layer: Which layer.
            start: The position of the first token.
            count: How many; ``None`` for all that are committed.

        Raises:
            PositionMismatch: Above the committed length.
            StoreDamaged: A block fails its check.
            Conflict: The sequence was cut while it was read.
        """
        return self._run(self._cluster.rows(sequence, layer, start, count))

    def export(
        self, sequence: Sequence | str, path: str | os.PathLike[str], *, dtype: DType | str | None = None
    ) -> Transfer:
        """Writes the committed tokens of a sequence to a safetensors file, as `dcpctl sequence export` does. It
        appears under its name complete or not at all. Memory is bounded by some megabytes.

        Args:
            sequence: The sequence, or its name.
            path: The file.
            dtype: Of the rows in the file; a narrower one than the cache's rounds them. ``None`` is the form of the
                cache, which keeps every bit: for ``int8`` and ``fp8`` bytes with scales.

        Raises:
            Conflict: The sequence was cut meanwhile, or a rank came back.
            InvalidRequest: The dtype cannot hold a number.
            OSError: The file cannot be written.
        """
        return self._run(self._cluster.export(sequence, path, dtype=dtype))

    def import_(
        self,
        path: str | os.PathLike[str],
        *,
        name: str | None = None,
        model: str | None = None,
        resume: bool = False,
    ) -> Transfer:
        """Makes a sequence of a file that an export wrote, on whatever shape of cluster, with the same bits. Rows of
        another dtype than the cache's are rounded to it.

        Args:
            path: The file.
            name: Of the sequence; ``None`` is the file's.
            model: Of its model; ``None`` is the file's. Registered when it is not known.
            resume: Goes on after an import that did not come to its end, once what is there has been compared with the
                file.

        Raises:
            Conflict: The sequence exists and is not empty, or is not what the file begins with.
            ModelMismatch: The model is registered and differs.
            InvalidRequest: The file is no export, naming what is wrong.
        """
        return self._run(self._cluster.import_(path, name=name, model=model, resume=resume))
