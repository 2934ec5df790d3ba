# SPDX-License-Identifier: Apache-2.0

"""The arguments and results of a cluster's calls."""

from __future__ import annotations

import enum
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from dcp_attention.model import LayerAttention, ModelDescription
from dcp_attention.shape import ClusterShape


class Phase(enum.IntEnum):
    """Whether a cluster serves."""

    INCOMPLETE = 1
    JOINING = 2
    READY = 3


@dataclass(frozen=True, slots=True)
class Topology:
    """The cluster as its coordinator sees it.

    Attributes:
        epoch: The membership's generation.
        phase: Whether it serves.
        reason: Why it is not ready; empty when it is.
        shape: How the ranks are arranged.
        lease_milliseconds: How long a rank may be silent.
        endpoints: Where each rank is dialled, in their order; ``None`` for one that is missing.
        cluster: The cluster's random identity.
    """

    epoch: int
    phase: Phase
    reason: str
    shape: ClusterShape
    lease_milliseconds: int
    endpoints: tuple[str | None, ...]
    cluster: int


@dataclass(frozen=True, slots=True)
class Model:
    """A model as the directory keeps it."""

    id: int
    name: str
    description: ModelDescription


@dataclass(frozen=True, slots=True)
class Retention:
    """How long a sequence is kept.

    Attributes:
        is_pinned: Never evicted, never too old.
        is_kept: Closed by its client, to be found by its tokens until its room is needed.
        priority: Sequences of a lower one are evicted first; -128...127.
        time_to_live: Seconds without a use after which it is closed; 0 for never.
    """

    is_pinned: bool = False
    is_kept: bool = False
    priority: int = 0
    time_to_live: int = 0


@dataclass(frozen=True, slots=True)
class Sequence:
    """A sequence as a client holds it: a plain value, good in any process that knows the cluster.

    Attributes:
        id: Its number, never given again.
        name: Its name.
        model: The model whose keys and values it has.
        scope: Who may find it by its tokens: those who state the same one.
        retention: As of the list that this is from; the default otherwise.
    """

    id: int
    name: str
    model: Model = field(repr=False, compare=False)
    scope: str = ""
    retention: Retention = field(default=Retention(), compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Entry:
    """The part of a step that is about one sequence.

    Attributes:
        sequence: Which one.
        position: Of its first token: where the layer of the sequence ends, for tokens that are appended.
        count: How many tokens, from 1.
    """

    sequence: Sequence
    position: int
    count: int


@dataclass(frozen=True, slots=True)
class Fork:
    """A new sequence of the first tokens of another, which all its layers have, committed or not. Blocks are shared.

    Attributes:
        parent: The sequence whose tokens it begins with.
        name: Of the new sequence.
        length: How many tokens.
    """

    parent: Sequence
    name: str
    length: int


TokenIDs: TypeAlias = "SequenceOf[int] | npt.NDArray[np.integer]"


@dataclass(frozen=True, slots=True)
class Commit:
    """The first tokens of a sequence, to be made durable on every rank.

    Attributes:
        sequence: Which one.
        length: How many tokens; all layers have them. At or below what is committed nothing changes.
        token_ids: What the tokens from ``first_id`` to ``length`` are called, as u32. A sequence has ids of all
            committed tokens or of none.
        first_id: The position of the first of them; ``None`` is so that they end at ``length``.
        annotation: Replaces what was left with the sequence, at most 1 MiB; empty removes it, ``None`` leaves it.
    """

    sequence: Sequence
    length: int
    token_ids: TokenIDs | None = None
    first_id: int | None = None
    annotation: bytes | None = None


@dataclass(frozen=True, slots=True)
class PrefixMatch:
    """A stored sequence that begins with the first ``length`` of some token ids.

    Attributes:
        sequence_id: Its number.
        length: How many of the ids it has, committed on every rank.
    """

    sequence_id: int
    length: int


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a sequence is.

    Attributes:
        committed: What every rank has committed.
        committed_most: What some rank has: more, after a commit that not all ranks have carried out.
        layers: For each layer what every rank has, committed or not.
        is_uneven: Whether some rank has tokens of a layer that another has not: a step failed half-way.
        token_ids: How many committed tokens have ids, on every rank.
        local_tokens: For each rank the committed tokens that it owns.
        claim: The latest claim that a rank knows.
    """

    committed: int
    committed_most: int
    layers: tuple[int, ...]
    is_uneven: bool
    token_ids: int
    local_tokens: tuple[int, ...]
    claim: int = field(default=0, repr=False)

    @property
    def length(self) -> int:
        """The end of the sequence: the length that every layer has on every rank."""
        return min(self.layers)


@dataclass(frozen=True, slots=True)
class AttentionOutput:
    """A step's answer.

    Attributes:
        out: f32, shape ``[tokens, Hq, Dv]``. In memory the heads come first, so ``out.transpose(1, 0, 2)`` is
            contiguous. Writable, and nobody else's.
        lse: f32, shape ``[tokens, Hq]``: the natural logarithm of the sum of exponentials of the scores, sinks counted;
            ``None`` when it was not asked for.
    """

    out: npt.NDArray[np.float32]
    lse: npt.NDArray[np.float32] | None


@dataclass(frozen=True, slots=True)
class CachedRows:
    """Keys and values as the cache holds them, in the row type of the model's cache format: bf16 as
    ``ml_dtypes.bfloat16`` where that is installed, else as u16.

    Attributes:
        keys: ``[tokens, Hkv, Dk]``.
        values: ``[tokens, Hkv, Dv]``; ``None`` where they are a part of the keys.
        version: Equal versions are of one uncut sequence.
    """

    keys: npt.NDArray[np.generic]
    values: npt.NDArray[np.generic] | None
    version: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Transfer:
    """The result of an export or an import.

    Attributes:
        sequence: The sequence.
        tokens: How many tokens it has.
        tokens_kept: How many of them an import found in place already.
        bytes: Of keys and values.
    """

    sequence: Sequence
    tokens: int
    tokens_kept: int
    bytes: int


class QueryMode(enum.IntEnum):
    """Whether ranks gather the queries from each other, or are each sent all of their group's."""

    GATHER = 1
    REPLICATE = 2


__all__ = [
    "AttentionOutput",
    "CachedRows",
    "ClusterShape",
    "Commit",
    "Entry",
    "Fork",
    "LayerAttention",
    "Model",
    "Phase",
    "PrefixMatch",
    "Progress",
    "QueryMode",
    "Retention",
    "Sequence",
    "TokenIDs",
    "Topology",
    "Transfer",
]
