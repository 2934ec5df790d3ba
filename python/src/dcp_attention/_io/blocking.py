# SPDX-License-Identifier: Apache-2.0

"""Sockets for callers that wait: every coroutine here ends without suspending."""

from __future__ import annotations

import select
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import lru_cache, partial
from types import TracebackType
from typing import Any, cast

from dcp_attention._io.conversation import Answer, Conversation, hello
from dcp_attention._io.endpoint import Peer
from dcp_attention._io.transport import DIAL_TIMEOUT, Call, Link, dial_error, late, tls_error
from dcp_attention._wire.frame import Encoded, Frame
from dcp_attention.errors import DeadlineExceeded, ServiceError, ShuttingDown
from dcp_attention.release import RELEASE
from dcp_attention.security import TLS, check_role

_IOV_MAX = 64


class BlockingLink:
    """A connection over a socket that does not block; waiting is done with poll(2), for all that is waited for at
    once.
    """

    def __init__(self, peer: Peer, sock: socket.socket) -> None:
        self.peer = peer
        self.socket = sock
        self.conversation = Conversation(peer)
        # A peer that has gone is noticed by the next request.
        self.is_open = True
        self._is_tls = isinstance(sock, ssl.SSLSocket)
        sock.setblocking(False)

    @property
    def has_buffered(self) -> bool:
        """Whether bytes are buffered that poll(2) does not report."""
        return self._is_tls and cast(ssl.SSLSocket, self.socket).pending() > 0

    def forked(self) -> None:
        """See `Link`."""
        self.is_open = False
        self.socket.close()

    def close(self) -> None:
        """Closes the connection; waiting requests fail."""
        self.end(ShuttingDown("The client closed the connection."))

    def end(self, error: ServiceError) -> None:
        """Closes the connection for a reason."""
        self.is_open = False
        self.socket.close()
        self.conversation.ended(error)

    def send(self, frame: Encoded, deadline: float) -> None:
        """Sends a frame whole, or ends the connection.

        Raises:
            DeadlineExceeded: It took too long.
            ServiceError: The connection ended.
        """
        try:
            sent = self._send_at_once(frame)
            if sent < frame.size:
                self._send_rest(frame, sent, deadline)
        except DeadlineExceeded as error:
            # A frame that was begun cannot be taken back.
            self.end(error)
            raise
        except OSError as error:
            self.receive()
            self.end(self.peer.gone(error.strerror or error))
        except BaseException:
            self.end(ShuttingDown("A request was interrupted while it was sent."))
            raise

    def _send_at_once(self, frame: Encoded) -> int:
        """Sends what a socket takes of a frame: of a decode step all of it. TLS takes one piece at a time."""
        if self._is_tls:
            return 0
        try:
            return self.socket.sendmsg(frame.pieces[:_IOV_MAX])
        except BlockingIOError:
            return 0

    def _send_rest(self, frame: Encoded, sent: int, deadline: float) -> None:
        left = [memoryview(piece) for piece in frame.pieces]
        while True:
            while left and sent >= len(left[0]):
                sent -= len(left.pop(0))
            if not left:
                return
            if sent:
                left[0] = left[0][sent:]
            sent = 0
            try:
                sent = self.socket.send(left[0]) if self._is_tls else self.socket.sendmsg(left[:_IOV_MAX])
            except (BlockingIOError, ssl.SSLWantWriteError):
                self._wait(select.POLLOUT, deadline)
            except ssl.SSLWantReadError:
                self._wait(select.POLLIN, deadline)

    def _wait(self, events: int, deadline: float) -> None:
        poll = select.poll()
        poll.register(self.socket, events)
        if not poll.poll(max(0, deadline - time.monotonic()) * 1000):
            raise DeadlineExceeded(
                f"{self.peer.name} did not take a request in time; try again or raise the timeout.", rank=self.peer.rank
            )

    def receive(self) -> None:
        """Reads available bytes while requests are waiting. Closes the connection if the peer did."""
        conversation = self.conversation
        reader = conversation.reader
        try:
            while self.is_open:
                count = self.socket.recv_into(reader.buffer())
                if count == 0:
                    self.end(self.peer.gone("the peer closed it"))
                    return
                conversation.received(count)
                if not conversation.awaits and reader.is_between_frames:
                    if conversation.failure is not None:
                        # The peer closes the connection: it would not answer the next request.
                        self.end(conversation.failure)
                    return
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except ssl.SSLError as error:
            self.end(tls_error(self.peer, error))
        except OSError as error:
            self.end(self.peer.gone(error.strerror or error))
        except ServiceError as error:
            self.end(error)
        except BaseException:
            # Which of the bytes were taken note of is not known.
            self.end(ShuttingDown("A request was interrupted while its answer was received."))
            raise


class BlockingTransport:
    """Sockets for one caller at a time."""

    def __init__(self) -> None:
        # A list of descriptors, and nothing of what they are: it is as good for the next sockets that have them.
        self._poll_of = lru_cache(maxsize=64)(_poll_of)

    def _receive(self, links: list[BlockingLink], deadline: float, is_due: Callable[[], bool]) -> bool:
        """Receives over links until no answer is outstanding.

        Returns:
            Whether that was before the deadline.
        """
        while is_due():
            awaited = [link for link in links if link.is_open and link.conversation.awaits]
            ready = [link for link in awaited if link.has_buffered] or self._poll(awaited, deadline)
            if not ready:
                return False
            for link in ready:
                link.receive()
        return True

    def _poll(self, links: list[BlockingLink], deadline: float) -> list[BlockingLink]:
        found = {link.socket.fileno(): link for link in links}
        events = self._poll_of(tuple(found)).poll(max(0, deadline - time.monotonic()) * 1000)
        return [found[descriptor] for descriptor, _ in events]

    async def open(self, peer: Peer, tls: TLS | None) -> Link:
        """See `Transport`."""
        deadline = time.monotonic() + DIAL_TIMEOUT
        try:
            sock = _dial(peer, tls)
        except OSError as error:
            raise dial_error(peer, error) from error
        link = BlockingLink(peer, sock)
        try:
            link.send(hello(RELEASE), deadline)
            self._receive([link], deadline, lambda: link.is_open and not link.conversation.is_welcome)
        except BaseException:
            sock.close()
            raise
        if not link.conversation.is_welcome:
            link.socket.close()
            raise link.conversation.failure or late(peer, DIAL_TIMEOUT)
        return link

    async def close(self, link: Link) -> None:
        """See `Transport`."""
        link.close()

    async def exchange(self, calls: Sequence[Call], timeout: float) -> list[Frame]:
        """See `Transport`."""
        deadline = time.monotonic() + timeout
        answers: list[Answer | None] = [None] * len(calls)
        links = list({id(call.link): call.link for call in calls}.values())
        due = len(calls)
        failure: ServiceError | None = None

        def answer(index: int, value: Answer) -> None:
            nonlocal due, failure
            answers[index] = value
            due -= 1
            if failure is None and isinstance(value, ServiceError):
                failure = value

        try:
            for index, call in enumerate(calls):
                call.link.conversation.expect(call.tag, call.type, partial(answer, index))
                if failure is not None:
                    break
                call.link.send(call.frame, deadline)
            waits = self._receive(links, deadline, lambda: due > 0 and failure is None)
            if not waits:
                raise late(next(c.link for c, a in zip(calls, answers, strict=True) if a is None).peer, timeout)
        finally:
            for call, value in zip(calls, answers, strict=True):
                if value is None:
                    call.link.conversation.forget(call.tag)
        if failure is not None:
            raise failure
        return [value for value in answers if isinstance(value, Frame)]

    async def sleep(self, seconds: float) -> None:
        """See `Transport`."""
        time.sleep(seconds)

    def lock(self, keys: Iterable[int]) -> AbstractAsyncContextManager[Any]:
        """See `Transport`: each caller has its own."""
        return _NO_LOCK


class _NoLock:
    async def __aenter__(self) -> None:
        return None

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


_NO_LOCK = _NoLock()


def _poll_of(descriptors: tuple[int, ...]) -> select.poll:
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    return poll


def _dial(peer: Peer, tls: TLS | None) -> socket.socket:
    endpoint = peer.endpoint
    if endpoint.path:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(DIAL_TIMEOUT)
            sock.connect(endpoint.path)
        except BaseException:
            sock.close()
            raise
        return sock
    if tls is None:
        endpoint.check_plain()
    sock = socket.create_connection((endpoint.host, endpoint.port), DIAL_TIMEOUT)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is None:
            return sock
        secure = tls.context().wrap_socket(sock)
    except BaseException:
        sock.close()
        raise
    try:
        check_role(secure.getpeercert(), peer.role)
    except BaseException:
        secure.close()
        raise
    return secure
