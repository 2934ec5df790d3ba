# SPDX-License-Identifier: Apache-2.0

"""The errors, as a hierarchy of classes with the service's codes.

Catch :class:`ServiceError` for everything, :class:`RetryableError` for what may succeed later without anybody changing
it, or a class by its name. A client has retried for ``retry_for`` seconds before it raises something retryable.
"""

from __future__ import annotations

from typing import Any, ClassVar


class ServiceError(Exception):
    """A failure: what happened, to which value, and what to do about it.

    Attributes:
        code: The number on the wire; see *Protocol*, "Error codes".
        message: One or two sentences with the value, the limit and the remedy.
        rank: The rank at fault or that reports, when it is one.
        answers: Of a call for many things, what became of each, in their order: its value or its error. The call raises
            the first error; the others were done or refused by themselves.
    """

    code: ClassVar[int] = 0
    name: ClassVar[str] = "error"
    _classes: ClassVar[dict[int, type[ServiceError]]] = {}

    def __init__(self, message: str, *, rank: int | None = None, number: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.rank = rank
        self.number = self.code if number is None else number
        self.answers: tuple[Any, ...] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "code" in cls.__dict__:
            ServiceError._classes[cls.code] = cls

    def __str__(self) -> str:
        origin = "" if self.rank is None else f" (rank {self.rank})"
        name = self.name if self.number == self.code else f"error {self.number}"
        return f"{name}{origin}: {self.message}"

    @property
    def is_retryable(self) -> bool:
        """Whether the same request may succeed later. Decided by the number alone, so a new code is treated rightly."""
        return 100 <= self.number < 200

    @staticmethod
    def of(number: int, message: str, rank: int | None = None) -> ServiceError:
        """The error of a code; of one that this release does not know, a `RetryableError` or a `ServiceError`."""
        known = ServiceError._classes.get(number)
        if known is not None:
            return known(message, rank=rank)
        unknown = RetryableError if 100 <= number < 200 else ServiceError
        return unknown(message, rank=rank, number=number)


class RetryableError(ServiceError):
    """The same request may succeed later without anybody changing it."""


class InvalidRequest(ServiceError, ValueError):
    """A request, a tensor or a file cannot be right."""

    code, name = 1, "invalid request"


class InvalidConfiguration(ServiceError, ValueError):
    """A setting is wrong: an endpoint, a certificate."""

    code, name = 2, "invalid configuration"


class InvalidModel(ServiceError, ValueError):
    """A model's description is wrong, cannot be served, or does not fit the cluster."""

    code, name = 3, "invalid model"


class ModelMismatch(ServiceError):
    """The model of this name is another one, in its revision or otherwise, or the sequence has another model."""

    code, name = 4, "model mismatch"


class UnknownModel(ServiceError, LookupError):
    """No model has this name."""

    code, name = 5, "unknown model"


class UnknownSequence(ServiceError, LookupError):
    """No sequence has this name, or it was closed meanwhile."""

    code, name = 6, "unknown sequence"


class PositionMismatch(ServiceError):
    """A step does not start where the layer ends, or a length is not reached."""

    code, name = 7, "position mismatch"


class Incompatible(ServiceError):
    """Peers differ in version, layout or identity."""

    code, name = 8, "incompatible"


class ProtocolViolation(ServiceError):
    """Bytes that are not this protocol, or break its rules."""

    code, name = 9, "protocol violation"


class StoreRefused(ServiceError):
    """A store is another's, in use, or of another format."""

    code, name = 10, "store refused"


class StoreDamaged(ServiceError):
    """A stored value fails its check."""

    code, name = 11, "store damaged"


class Conflict(ServiceError):
    """A name is taken, something is in use, or ids contradict stored ones."""

    code, name = 12, "conflict"


class Evicted(ServiceError):
    """The sequence was closed to make room: it has to be prefilled anew."""

    code, name = 13, "evicted"


class AccessDenied(ServiceError):
    """Another user, certificate or role than is allowed."""

    code, name = 14, "access denied"


class Claimed(ServiceError):
    """Another client has taken over the sequence. `Cluster.resume` takes it back."""

    code, name = 15, "claimed"


class NotReady(RetryableError):
    """The cluster is not complete; it answers again when it is."""

    code, name = 101, "not ready"


class StaleEpoch(RetryableError):
    """The request is of another epoch."""

    code, name = 102, "stale epoch"


class Overloaded(RetryableError):
    """A bounded queue or buffer is full."""

    code, name = 103, "overloaded"


class RankUnavailable(RetryableError):
    """A rank is not reached."""

    code, name = 104, "rank unavailable"


class DeadlineExceeded(RetryableError):
    """Something took longer than it was given."""

    code, name = 105, "deadline exceeded"


class StoreFull(RetryableError):
    """A store takes no new tokens."""

    code, name = 106, "store full"


class ShuttingDown(RetryableError):
    """A daemon stops."""

    code, name = 107, "shutting down"


class StepAborted(RetryableError):
    """The client disconnected, or tokens that the step builds on were rolled back."""

    code, name = 108, "step aborted"


class Unreachable(RetryableError):
    """No daemon listens at the address."""

    code, name = 109, "unreachable"


class InternalError(ServiceError):
    """A bug of the service."""

    code, name = 200, "internal error"


class TokensLost(PositionMismatch):
    """An outage took tokens that this client does not have: another process appended them, or they were committed and
    lost.

    Attributes:
        sequence: The sequence's name.
        length: Where it ends now, in all layers on all ranks: send the tokens from there on again.
    """

    name = "tokens lost"

    def __init__(self, message: str, *, sequence: str = "", length: int = 0) -> None:
        super().__init__(message)
        self.sequence = sequence
        self.length = length
