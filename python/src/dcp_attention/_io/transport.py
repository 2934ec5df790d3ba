# SPDX-License-Identifier: Apache-2.0

"""The network interface of the client, for blocking callers and for asyncio."""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple, Protocol

from dcp_attention._io.endpoint import Peer
from dcp_attention._wire.frame import Encoded, Frame, Tag
from dcp_attention.errors import AccessDenied, DeadlineExceeded, ServiceError
from dcp_attention.security import TLS

DIAL_TIMEOUT = 10.0


class Link(Protocol):
    """An open connection to a daemon that has welcomed this client."""

    @property
    def peer(self) -> Peer:
        """The peer at the other end."""

    @property
    def is_open(self) -> bool:
        """Whether requests may be sent; it may close at any moment after."""

    def close(self) -> None:
        """Closes the connection; waiting requests fail."""

    def forked(self) -> None:
        """Lets go of the connection in a child process, without a word to the peer: it is the parent's."""


class Call(NamedTuple):
    """A request to send over a link: its frame, and the tag that matches its answer."""

    link: Any
    type: int
    tag: Tag
    frame: Encoded


class Transport(Protocol):
    """A network. Its coroutines suspend on a loop, or never: then they can be run without one."""

    async def open(self, peer: Peer, tls: TLS | None) -> Link:
        """Connects, exchanges hellos, and checks the peer.

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
        """Serializes concurrent callers that share a key, in the order in which they came."""


def late(peer: Peer, timeout: float) -> ServiceError:
    """The error for an answer that does not arrive in time."""
    return DeadlineExceeded(
        f"{peer.name} did not answer within {timeout:g} s; try again or raise the timeout.", rank=peer.rank
    )


_ENDED = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)
"""Errors of a connection that ended, of which TLS says nothing."""


def dial_error(peer: Peer, error: OSError) -> ServiceError:
    """The error for a failure to connect."""
    if isinstance(error, _ENDED):
        return peer.unreachable("the connection ended in the TLS handshake")
    if isinstance(error, ssl.SSLError):
        return tls_error(peer, error)
    if isinstance(error, PermissionError):
        return AccessDenied(
            f"This user may not use {peer.endpoint.text} ({error.strerror}); let the user in with allowed-uids or "
            "allowed-gids.",
            rank=peer.rank,
        )
    return peer.unreachable(error.strerror or str(error) or "the connection ended")


def tls_error(peer: Peer, error: ssl.SSLError) -> ServiceError:
    """The error for a failed handshake, on either side, or for a connection that ended."""
    if isinstance(error, _ENDED):
        return peer.gone("the peer closed it")
    reason = (error.reason or str(error)).replace("_", " ").lower()
    return AccessDenied(
        f"{peer.name} at {peer.endpoint.text} and this client do not agree on TLS 1.3 with certificates ({reason}); "
        "use files that `dcpctl certs` made for this cluster.",
        rank=peer.rank,
    )
