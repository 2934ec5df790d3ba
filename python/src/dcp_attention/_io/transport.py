"""What the client needs of a network, for callers that wait and for asyncio."""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from dcp_attention._io.endpoint import Peer
from dcp_attention._wire.frame import Buffer, Frame, Tag
from dcp_attention.errors import AccessDenied, DeadlineExceeded, ServiceError
from dcp_attention.security import TLS

DIAL_TIMEOUT = 10.0


class Link(Protocol):
    """An open connection to a daemon that has welcomed this client."""

    @property
    def peer(self) -> Peer:
        """Who is at the other end."""

    @property
    def is_open(self) -> bool:
        """Whether requests may be sent; it may close at any moment after."""

    def close(self) -> None:
        """Closes the connection; what waits fails."""


@dataclass(frozen=True, slots=True)
class Call:
    """A request to be sent over a link: a frame in pieces, and what to match its answer by."""

    link: Any
    type: int
    tag: Tag
    pieces: list[Buffer]


class Transport(Protocol):
    """A network. Its coroutines suspend on a loop, or never: then they can be run without one."""

    async def open(self, peer: Peer, tls: TLS | None) -> Link:
        """Dials, says hello, and checks who answers.

        Raises:
            Unreachable: Nobody listens there; for a rank `RankUnavailable`.
            ServiceError: The peer's refusal.
        """

    async def close(self, link: Link) -> None:
        """Closes a connection, and waits until its socket is."""

    async def exchange(self, calls: Sequence[Call], timeout: float) -> list[Frame]:
        """Sends requests, and waits for all their replies, in the order of the calls.

        Raises:
            ServiceError: The first failure; replies that come later are dropped.
        """

    async def sleep(self, seconds: float) -> None:
        """Waits."""

    def lock(self, keys: Iterable[int]) -> AbstractAsyncContextManager[Any]:
        """Keeps callers that run beside each other apart where one of their keys is the same."""


def late(peer: Peer, timeout: float) -> ServiceError:
    """The error when an answer does not come in time."""
    return DeadlineExceeded(
        f"{peer.name} did not answer within {timeout:g} s; try again or raise the timeout.", rank=peer.rank
    )


def dial_error(peer: Peer, error: OSError) -> ServiceError:
    """What a failure to connect means."""
    if isinstance(error, ssl.SSLError):
        return tls_error(peer, error)
    if isinstance(error, PermissionError):
        return AccessDenied(
            f"This user may not use {peer.endpoint.text} ({error.strerror}); let the user in with allowed-uids or "
            "allowed-gids.",
            rank=peer.rank,
        )
    return peer.unreachable(error.strerror or error or "no answer")


def tls_error(peer: Peer, error: ssl.SSLError) -> ServiceError:
    """What a failed handshake means, on either side."""
    reason = (error.reason or str(error)).replace("_", " ").lower()
    return AccessDenied(
        f"{peer.name} at {peer.endpoint.text} and this client do not agree on TLS 1.3 with certificates ({reason}); "
        "use files that `dcpctl certs` made for this cluster.",
        rank=peer.rank,
    )
