# SPDX-License-Identifier: Apache-2.0

"""A client's reaction to failures: a value without clock or connection."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dcp_attention.errors import (
    DeadlineExceeded,
    InvalidRequest,
    NotReady,
    RankUnavailable,
    ServiceError,
    ShuttingDown,
    StaleEpoch,
    Unreachable,
)

PAUSE_MAX = 0.5
TIMEOUT_MAX = 1_000_000.0
"""Seconds: within what poll(2) and a step's fields hold in milliseconds."""

_MEMBERSHIP = (NotReady, StaleEpoch, RankUnavailable, ShuttingDown, Unreachable, DeadlineExceeded)


def concerns_membership(error: ServiceError) -> bool:
    """Whether a change of the membership may explain it, so that the topology must be fetched again."""
    return isinstance(error, _MEMBERSHIP)


def check_seconds(name: str, seconds: float, most: float = math.inf) -> None:
    """Refuses a time that none can be.

    Raises:
        InvalidRequest: It is negative, NaN or above a limit.
    """
    if not 0 <= seconds <= most:
        raise InvalidRequest(f"`{name}` is {seconds:g} s, outside 0...{most:.0f}; correct it.")


@dataclass(frozen=True, slots=True)
class Retry:
    """After a pause, try again. With a new topology the client first asks the coordinator, which answers when the
    cluster is ready, or when ``patience`` has passed.
    """

    after: float
    needs_topology: bool
    patience: float


class Outage:
    """Failures that follow each other, from a retryable one to the next success.

    The client tries again, at once the first time and then with growing pauses, until it has lasted for as long as is
    allowed.
    """

    __slots__ = ("_allowance", "_began", "_failures")

    def __init__(self, allowance: float) -> None:
        self._allowance = allowance
        self._began: float | None = None
        self._failures = 0

    def failed(self, error: ServiceError, now: float) -> Retry:
        """A call failed.

        Args:
            error: With what.
            now: Seconds since any fixed moment, never backwards.

        Raises:
            ServiceError: The error for the caller: it is not retryable, or the allowance is used up.
        """
        if not error.is_retryable or self._allowance <= 0:
            raise error
        if self._began is None:
            self._began = now
        left = self._allowance - (now - self._began)
        if left <= 0:
            raise ServiceError.of(
                error.number,
                f"{error.message} The cluster did not recover within {self._allowance:g} s; raise retry_for if it "
                "needs longer.",
                error.rank,
            )
        self._failures += 1
        # 0, 10, 20, 40 ... ms: the cluster is often back when the coordinator has answered.
        exponent = self._failures - 2
        pause = 0.0 if exponent < 0 else min(0.01 * 2 ** min(exponent, 6), PAUSE_MAX, left)
        return Retry(pause, concerns_membership(error), max(left - pause, 0))
