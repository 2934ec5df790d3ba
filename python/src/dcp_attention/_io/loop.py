# SPDX-License-Identifier: Apache-2.0

"""Connections of asyncio."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, cast

from dcp_attention._io.conversation import Answer, Conversation, hello
from dcp_attention._io.endpoint import Peer
from dcp_attention._io.transport import DIAL_TIMEOUT, Call, Link, dial_error, late, tls_error
from dcp_attention._wire.frame import Encoded, Frame
from dcp_attention.errors import ServiceError, ShuttingDown
from dcp_attention.release import RELEASE
from dcp_attention.security import TLS, check_role


class LoopLink(asyncio.BufferedProtocol):
    """A connection; received bytes go straight into the frame that they are of."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.conversation = Conversation(peer)
        self.is_open = False
        self.welcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._queued = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.BaseProtocol`."""
        self._transport = cast(asyncio.Transport, transport)
        self.is_open = True

    def get_buffer(self, sizehint: int) -> memoryview:
        """See `asyncio.BufferedProtocol`."""
        return self.conversation.reader.buffer()

    def buffer_updated(self, nbytes: int) -> None:
        """See `asyncio.BufferedProtocol`."""
        try:
            self.conversation.received(nbytes)
        except ServiceError as error:
            self._end(error)
            return
        if self.conversation.is_welcome and not self.welcome.done():
            self.welcome.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.BaseProtocol`."""
        if isinstance(exc, ssl.SSLError):
            self._end(tls_error(self.peer, exc))
        else:
            self._end(self.peer.gone(str(exc or "") or "the peer closed it"))
        if not self.lost.done():
            self.lost.set_result(None)

    def pause_writing(self) -> None:
        """See `asyncio.BaseProtocol`."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """See `asyncio.BaseProtocol`."""
        self._writable.set()

    def close(self) -> None:
        """Closes the connection; waiting requests fail."""
        self._end(ShuttingDown("The client closed the connection."))

    def forked(self) -> None:
        """See `Link`. The socket stays the loop's, which a child cannot use."""
        self.is_open = False

    def abandon(self) -> None:
        """Closes the connection, because a frame that was begun cannot be taken back."""
        self._end(ShuttingDown("A request was given up before it was sent."))

    def _end(self, error: ServiceError) -> None:
        self.is_open = False
        self._writable.set()
        if self._transport is not None:
            # What waits to be sent would keep the socket open for as long as the peer does not take it.
            self._transport.abort()
        self.conversation.ended(error)
        if not self.welcome.done():
            self.welcome.set_exception(self.conversation.failure or error)

    async def closed(self) -> None:
        """Waits until the socket is."""
        if self._transport is not None:
            await self.lost

    def check_role(self) -> None:
        """Refuses a peer whose certificate is for something else."""
        assert self._transport is not None
        check_role(self._transport.get_extra_info("peercert"), self.peer.role)

    def send(self, frame: Encoded) -> int:
        """Sends a frame; no other task writes in between.

        Returns:
            Where the frame ends among all bytes that were ever to be sent.
        """
        assert self._transport is not None
        if self.is_open:
            for piece in frame.pieces:
                self._transport.write(piece)
            self._queued += frame.size
        return self._queued

    def has_sent(self, end: int) -> bool:
        """Whether a frame that ends there is not in memory any more."""
        assert self._transport is not None
        return not self.is_open or end <= self._queued - self._transport.get_write_buffer_size()

    @property
    def is_congested(self) -> bool:
        """Whether so much is queued for sending that callers should wait."""
        return not self._writable.is_set()

    async def taken(self) -> None:
        """Waits until not too much waits to be sent."""
        await self._writable.wait()


class LoopTransport:
    """Connections of the loop that runs."""

    def __init__(self) -> None:
        self._queues: dict[int, deque[_Turn]] = {}

    async def open(self, peer: Peer, tls: TLS | None) -> Link:
        """See `Transport`."""
        link = LoopLink(peer)
        try:
            await asyncio.wait_for(self._greet(link, tls), DIAL_TIMEOUT)
        except BaseException as error:
            link.close()
            await link.closed()
            # Since Python 3.11 it is an OSError.
            if isinstance(error, asyncio.TimeoutError):
                raise late(peer, DIAL_TIMEOUT) from error
            if isinstance(error, OSError):
                raise dial_error(peer, error) from error
            raise
        finally:
            if link.welcome.done() and not link.welcome.cancelled():
                link.welcome.exception()
        return link

    async def _greet(self, link: LoopLink, tls: TLS | None) -> None:
        await self._dial(link, tls)
        link.send(hello(RELEASE))
        await link.welcome

    async def _dial(self, link: LoopLink, tls: TLS | None) -> None:
        loop = asyncio.get_running_loop()
        endpoint = link.peer.endpoint
        if endpoint.path:
            await loop.create_unix_connection(lambda: link, endpoint.path)
            return
        if tls is None:
            endpoint.check_plain()
        context = None if tls is None else tls.context()
        await loop.create_connection(lambda: link, endpoint.host, endpoint.port, ssl=context)
        if tls is not None:
            link.check_role()

    async def close(self, link: Link) -> None:
        """See `Transport`."""
        assert isinstance(link, LoopLink)
        link.close()
        await link.closed()

    async def exchange(self, calls: Sequence[Call], timeout: float) -> list[Frame]:
        """See `Transport`."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        answers: list[asyncio.Future[Frame]] = [loop.create_future() for _ in calls]
        for call, answer in zip(calls, answers, strict=True):
            call.link.conversation.expect(call.tag, call.type, lambda value, answer=answer: _settle(answer, value))
        ends: list[int] = []
        try:
            for call in calls:
                ends.append(call.link.send(call.frame))
                if call.link.is_congested:
                    await asyncio.wait_for(call.link.taken(), deadline - loop.time())
            done, _ = await asyncio.wait(answers, timeout=deadline - loop.time(), return_when=asyncio.FIRST_EXCEPTION)
            for answer in done:
                answer.result()
            for call, answer in zip(calls, answers, strict=True):
                if not answer.done():
                    raise late(call.link.peer, timeout)
            return [answer.result() for answer in answers]
        except asyncio.TimeoutError as error:
            raise late(call.link.peer, timeout) from error
        finally:
            # The caller may change its tensors now, and would send as much again.
            for call, end in zip(calls, ends, strict=False):
                if not call.link.has_sent(end):
                    call.link.abandon()
            for call, answer in zip(calls, answers, strict=True):
                call.link.conversation.forget(call.tag)
                if not answer.done():
                    answer.cancel()
                elif not answer.cancelled():
                    answer.exception()

    async def sleep(self, seconds: float) -> None:
        """See `Transport`."""
        await asyncio.sleep(seconds)

    def lock(self, keys: Iterable[int]) -> AbstractAsyncContextManager[Any]:
        """See `Transport`."""
        return _Turn(self._queues, tuple(dict.fromkeys(keys)))


class _Turn:
    """A caller's turn with some keys, for which it queues at once: callers that share a key have their turns in the
    order in which they came, and none waits for one that came later.
    """

    __slots__ = ("_ahead", "_keys", "_queues", "_ready")

    def __init__(self, queues: dict[int, deque[_Turn]], keys: tuple[int, ...]) -> None:
        self._queues = queues
        self._keys = keys
        self._ahead = 0
        """In how many queues others are before it."""
        self._ready: asyncio.Future[None] | None = None

    async def __aenter__(self) -> None:
        for key in self._keys:
            queue = self._queues.setdefault(key, deque())
            self._ahead += len(queue) > 0
            queue.append(self)
        if self._ahead:
            self._ready = asyncio.get_running_loop().create_future()
            try:
                await self._ready
            except BaseException:
                self._leave()
                raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def _leave(self) -> None:
        for key in self._keys:
            queue = self._queues[key]
            if queue[0] is not self:
                queue.remove(self)
                continue
            queue.popleft()
            if queue:
                queue[0]._advance()
            else:
                del self._queues[key]

    def _advance(self) -> None:
        self._ahead -= 1
        if self._ahead == 0 and self._ready is not None and not self._ready.done():
            self._ready.set_result(None)


def _settle(answer: asyncio.Future[Frame], value: Answer) -> None:
    if answer.done():
        return
    if isinstance(value, ServiceError):
        answer.set_exception(value)
    else:
        answer.set_result(value)
