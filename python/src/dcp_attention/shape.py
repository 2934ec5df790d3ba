# SPDX-License-Identifier: Apache-2.0

"""How the ranks of a cluster are arranged, and which of them has which token and answers for which head."""

from __future__ import annotations

import enum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Exchange(enum.IntEnum):
    """How a head group combines partial results into each rank's own heads. Both give the same bits."""

    ALL_TO_ALL = 1
    ALL_GATHER_REDUCE_SCATTER = 2


class ClusterShape(NamedTuple):
    """W ranks are G head groups of C context ranks; rank ``g C + c`` is context rank c of group g.

    Attributes:
        ranks: W.
        head_groups: G. Group g serves the KV heads ``g Hkv / G ..< (g + 1) Hkv / G`` and their query heads.
        interleave: I, how many consecutive tokens one rank owns.
        block_tokens: B, local tokens of a block.
        exchange: How ranks exchange partial results.
    """

    ranks: int
    head_groups: int
    interleave: int
    block_tokens: int
    exchange: Exchange

    @property
    def context_ranks(self) -> int:
        """C, the ranks that a sequence's tokens are dealt to."""
        return self.ranks // self.head_groups

    def place(self, rank: int) -> tuple[int, int]:
        """A rank's head group and context rank."""
        return divmod(rank, self.context_ranks)

    def own_heads(self, rank: int, query_heads: int) -> range:
        """The query heads that a rank answers for, numbered over the whole model.

        Args:
            rank: Which rank.
            query_heads: Hq of the layer, over all head groups.
        """
        group, context_rank = self.place(rank)
        heads = query_heads // self.head_groups
        each, extra = divmod(heads, self.context_ranks)
        start = group * heads + context_rank * each + min(context_rank, extra)
        return range(start, start + each + (context_rank < extra))

    def group_heads(self, rank: int, heads: int) -> range:
        """The query heads, or the KV heads, of a rank's group, numbered over the whole model."""
        group, _ = self.place(rank)
        each = heads // self.head_groups
        return range(group * each, (group + 1) * each)

    def owned(self, rank: int, start: int, count: int) -> npt.NDArray[np.int64]:
        """Which of the ``count`` tokens from position ``start`` on a rank owns, relative to ``start``, rising."""
        _, context_rank = self.place(rank)
        positions = np.arange(start, start + count, dtype=np.int64)
        return np.flatnonzero(positions // self.interleave % self.context_ranks == context_rank)

    def owned_count(self, rank: int, start: int, count: int) -> int:
        """How many of the ``count`` tokens from position ``start`` on a rank owns."""
        return self._local_length(rank, start + count) - self._local_length(rank, start)

    def _local_length(self, rank: int, length: int) -> int:
        _, context_rank = self.place(rank)
        periods, rest = divmod(length, self.context_ranks * self.interleave)
        return periods * self.interleave + min(max(rest - context_rank * self.interleave, 0), self.interleave)
