# SPDX-License-Identifier: Apache-2.0

"""How a client makes the ranks agree on a sequence that it has just claimed: their status comes in, requests go
out.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence as SequenceOf
from typing import NamedTuple

from dcp_attention._wire.requests import SequenceStatus
from dcp_attention.values import Progress


class FirstUse(NamedTuple):
    """What a client has sent of a sequence that no rank has told it anything about: the position is the caller's word.

    Attributes:
        position: Where all layers are said to end.
        layer: Whose step was sent; ``None`` for no step.
        end: Where that layer ends if the step was carried out.
        committed: How many tokens are durable if its commit was; ``None`` without one.
    """

    position: int
    layer: int | None = None
    end: int = 0
    committed: int | None = None

    def explains(self, there: Progress) -> bool:
        """Whether what lies beyond the position is the step's own; otherwise it is another client's."""
        return all(
            end <= self.position or (layer == self.layer and end == self.end) for layer, end in enumerate(there.layers)
        ) and (there.committed_most <= self.position or there.committed_most == self.committed)


class Action(enum.Enum):
    """The request to send to the ranks."""

    SETTLED = "all layers end at one length on all ranks"
    REWIND = "every rank cuts the uncommitted tokens of all layers to the length"
    TRUNCATE = "a rank has committed tokens that another has lost: only the coordinator can truncate them"


def progress(statuses: SequenceOf[SequenceStatus]) -> Progress:
    """How far a sequence is.

    Args:
        statuses: One of each rank, in their order.
    """
    layers = [tuple(lengths) for lengths in zip(*(status.layers for status in statuses), strict=True)]
    return Progress(
        committed=min(status.committed for status in statuses),
        committed_most=max(status.committed for status in statuses),
        layers=tuple(min(lengths) for lengths in layers),
        is_uneven=any(len(set(lengths)) > 1 for lengths in layers),
        token_ids=min(status.token_ids for status in statuses),
        local_tokens=tuple(status.local_tokens for status in statuses),
        claim=max(status.claim for status in statuses),
    )


def resumption(there: Progress, at_most: int | None) -> tuple[Action, int]:
    """The next request, and its length.

    Args:
        there: What the ranks hold, now that the claim has ended what was under way.
        at_most: What is kept at most, unless more is committed; ``None`` keeps what every rank has of all layers.
    """
    kept = there.length
    if there.committed_most > kept:
        return Action.TRUNCATE, there.committed
    # Tokens that one rank has committed stay: the others have them, and the next commit makes them equal.
    target = max(kept if at_most is None else min(kept, at_most), there.committed_most)
    is_even = not there.is_uneven and all(length == target for length in there.layers)
    return (Action.SETTLED if is_even else Action.REWIND), target
