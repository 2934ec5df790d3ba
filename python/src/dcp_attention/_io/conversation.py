# SPDX-License-Identifier: Apache-2.0

"""The state of a connection without its socket: waiting requests, and the answers that arrive."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from dcp_attention._io.endpoint import Peer
from dcp_attention._wire.codec import FAILURE
from dcp_attention._wire.frame import NO_TAG, Encoded, Frame, FrameReader, Tag, encode
from dcp_attention._wire.requests import FAILURE_TYPE, HELLO, HELLO_TYPE, REPLY_BIT, WELCOME_TYPE, Hello
from dcp_attention.errors import Incompatible, ProtocolViolation, ServiceError

CLIENT, RANK, COORDINATOR = 1, 2, 3

Answer: TypeAlias = "Frame | ServiceError"


def hello(release: str) -> Encoded:
    """The first frame of a client."""
    fields = bytearray()
    HELLO.write(fields, Hello(CLIENT, None, 0, "", f"{release} (Python)"))
    return encode(HELLO_TYPE, 0, NO_TAG, bytes(fields))


class Conversation:
    """The requests that wait for answers on a connection. The owner of the socket passes on the bytes received."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.reader = FrameReader(peer.name)
        self.failure: ServiceError | None = None
        self.is_welcome = False
        self._waiting: dict[Tag, tuple[int, Callable[[Answer], None]]] = {}

    @property
    def awaits(self) -> bool:
        """Whether a frame is due: the peer's welcome, or an answer."""
        return not self.is_welcome or len(self._waiting) > 0

    def expect(self, tag: Tag, type: int, answer: Callable[[Answer], None]) -> None:
        """Notes a request that is sent.

        Args:
            tag: The request's.
            type: The request's.
            answer: Called once, with the reply's frame or an error, unless `forget` comes first.
        """
        if self.failure is not None:
            answer(self.failure)
            return
        self._waiting[tag] = (type | REPLY_BIT, answer)

    def forget(self, tag: Tag) -> None:
        """Abandons a request: its answer is dropped when it arrives."""
        self._waiting.pop(tag, None)

    def received(self, count: int) -> None:
        """Takes note of bytes in the reader's buffer, and passes on the frames that they end.

        Raises:
            ServiceError: The peer breaks the protocol or has refused this client: close the connection.
        """
        frame = self.reader.received(count)
        while frame is not None:
            self._take(frame)
            frame = self.reader.received(0)

    def _take(self, frame: Frame) -> None:
        if not self.is_welcome:
            self._greeted(frame)
        elif frame.type == FAILURE_TYPE:
            self._refused(frame)
        elif (waiting := self._waiting.pop(frame.tag, None)) is not None:
            expected, answer = waiting
            answer(frame if frame.type == expected else self._unexpected(frame))

    def _greeted(self, frame: Frame) -> None:
        if frame.type == FAILURE_TYPE:
            raise FAILURE.read(frame.reader())
        if frame.type != WELCOME_TYPE:
            raise self._unexpected(frame)
        peer = HELLO.read(frame.reader())
        expected = (COORDINATOR, None) if self.peer.rank is None else (RANK, self.peer.rank)
        if (peer.role, peer.rank) != expected:
            found = "the coordinator" if peer.role == COORDINATOR else f"rank {peer.rank}"
            raise Incompatible(f"Expected {self.peer.name} at {self.peer.endpoint.text}, found {found}.")
        self.is_welcome = True

    def _refused(self, frame: Frame) -> None:
        error = FAILURE.read(frame.reader())
        if frame.tag.client == 0:
            # Why the peer is about to close the connection: the better reason when it does.
            self.failure = error
        elif (waiting := self._waiting.pop(frame.tag, None)) is not None:
            waiting[1](error)

    def _unexpected(self, frame: Frame) -> ServiceError:
        return ProtocolViolation(
            f"{self.peer.name} answered with a frame of type {frame.type:#06x}, which does not answer the request; it "
            "has a bug or is of another release."
        )

    def ended(self, error: ServiceError) -> None:
        """The connection is closed: waiting requests fail."""
        self.failure = self.failure or error
        waiting, self._waiting = self._waiting, {}
        for _, answer in waiting.values():
            answer(self.failure)
