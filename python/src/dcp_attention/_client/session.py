# SPDX-License-Identifier: Apache-2.0

"""The client's connections, the topology, and requests over them."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import numpy.typing as npt

from dcp_attention._client.outages import concerns_membership
from dcp_attention._io.endpoint import Endpoint, Peer
from dcp_attention._io.forks import in_children
from dcp_attention._io.transport import Call, Link, Transport
from dcp_attention._wire.frame import Frame, Tag, encode
from dcp_attention._wire.requests import GET_TOPOLOGY, Many, Request, Wait
from dcp_attention.errors import InvalidRequest, NotReady, ProtocolViolation, RankUnavailable, ServiceError
from dcp_attention.security import TLS
from dcp_attention.values import Phase, Topology

Q = TypeVar("Q")
R = TypeVar("R")

_WAIT_MAX = 600.0
"""The longest that the coordinator waits for one request, in seconds."""
_DIALLING = -1
"""The key of the lock under which connections are made; sequences have positive numbers."""


def _new_client() -> int:
    return secrets.randbelow(2**64 - 1) + 1


class Session:
    """Sends requests to the coordinator and the ranks, independent of their meaning."""

    def __init__(
        self, transport: Transport, coordinator: Endpoint, tls: TLS | None, timeout: float, step_timeout: float
    ) -> None:
        self.transport = transport
        self.timeout = timeout
        self.step_timeout = step_timeout
        self._coordinator = Peer(coordinator)
        self._tls = tls
        self._client = _new_client()
        self._numbers = itertools.count(1)
        self._links: dict[int | None, Link] = {}
        self._topology: Topology | None = None
        self._is_closed = False
        in_children(self, Session.forked)

    def forked(self) -> None:
        """In a child process: what is sent and received over the connections is the parent's."""
        links, self._links = self._links, {}
        for link in links.values():
            link.forked()
        self._client = _new_client()
        self._topology = None

    async def close(self) -> None:
        """Closes the connections, for good: calls under way fail, and so do later ones."""
        self._is_closed = True
        links, self._links = self._links, {}
        for link in links.values():
            await self.transport.close(link)

    def tag(self, layer: int = 0) -> Tag:
        """A tag that no other request has."""
        return Tag(self._client, next(self._numbers), layer)

    # The topology.

    @property
    def epoch(self) -> int:
        """Of the topology that is known; 0 without one."""
        return 0 if self._topology is None else self._topology.epoch

    async def topology(self, wait: float = 0) -> Topology:
        """The cluster's status; waits up to this many seconds for it to become ready."""
        left = max(wait, 0)
        while left > _WAIT_MAX:
            topology = await self._fetch_topology(_WAIT_MAX)
            if topology.phase is Phase.READY:
                return topology
            left -= _WAIT_MAX
        return await self._fetch_topology(left)

    async def _fetch_topology(self, wait: float) -> Topology:
        topology = await self.ask(GET_TOPOLOGY, Wait(int(wait * 1000)), timeout=wait + self.timeout)
        self._topology = topology
        moved = [
            rank
            for rank, link in self._links.items()
            if rank is not None and topology.endpoints[rank] != link.peer.endpoint.text
        ]
        # All at once: another task may do the same, or dial, while one is closed.
        for link in [self._links.pop(rank) for rank in moved]:
            await self.transport.close(link)
        return topology

    async def ready_topology(self, wait: float = 0) -> Topology:
        """The topology of a serving cluster, cached or fetched.

        Raises:
            NotReady: With the coordinator's reason, which names the missing ranks.
        """
        known = self._topology
        if known is not None and known.phase is Phase.READY:
            return known
        topology = await self.topology(wait)
        if topology.phase is not Phase.READY:
            raise NotReady(f"The cluster is not ready: {topology.reason}. Try again when it is.")
        return topology

    def forget_topology(self, error: ServiceError | None = None) -> None:
        """Makes the next call fetch the topology again, unless the error has nothing to do with the membership."""
        if error is None or concerns_membership(error):
            self._topology = None

    # Connections.

    async def link(self, rank: int | None, topology: Topology | None = None) -> Link:
        """The connection to a rank, or to the coordinator, made if there is none.

        Raises:
            InvalidRequest: The client is closed.
        """
        link = self._links.get(rank)
        if link is not None and link.is_open:
            return link
        async with self.transport.lock((_DIALLING - (0 if rank is None else rank + 1),)):
            link = self._links.get(rank)
            if link is None or not link.is_open:
                self._check_open()
                link = await self.transport.open(self._peer(rank, topology), self._tls)
                if self._is_closed:
                    await self.transport.close(link)
                    self._check_open()
                self._links[rank] = link
        return link

    def _check_open(self) -> None:
        if self._is_closed:
            raise InvalidRequest("This client is closed; connect another one, or close it after its last call.")

    def _peer(self, rank: int | None, topology: Topology | None) -> Peer:
        if rank is None or topology is None:
            return self._coordinator
        endpoint = topology.endpoints[rank]
        if endpoint is None:
            raise RankUnavailable(
                f"rank {rank} is missing; start it: {self._coordinator.endpoint.start_of(rank)}.", rank=rank
            )
        return Peer(Endpoint.of(endpoint), rank)

    # Requests.

    async def ask(self, request: Request[Q, R], value: Q, *, timeout: float | None = None) -> R:
        """Asks the coordinator."""
        fields = bytearray()
        request.fields.write(fields, value)
        tag = self.tag()
        call = Call(await self.link(None), request.type, tag, encode(request.type, self.epoch, tag, fields))
        (frame,) = await self.transport.exchange([call], self.timeout if timeout is None else timeout)
        return reply(request, frame)

    async def ask_each(self, many: Many[Q, R], items: Sequence[Q]) -> list[R | ServiceError]:
        """Asks the coordinator for many things, in as many requests as it takes. Answers are in the order of the
        items.
        """
        answers: list[R | ServiceError] = []
        for start in range(0, len(items), many.items_max):
            some = tuple(items[start : start + many.items_max])
            some_answers: tuple[R | ServiceError, ...] = await self.ask(many.request, some)
            answers += counted(some_answers, len(some), "the coordinator")
        return answers

    async def ask_ranks(
        self, request: Request[Q, R], value: Q, topology: Topology, ranks: Iterable[int] | None = None
    ) -> list[R]:
        """Sends the same request to ranks, by default to all; the first failure is the outcome."""
        fields = bytearray()
        request.fields.write(fields, value)
        encoded = bytes(fields)
        frames = [(rank, encoded, ()) for rank in (range(topology.shape.ranks) if ranks is None else ranks)]
        replies = await self.send(request.type, frames, topology, timeout=self.timeout)
        return [reply(request, frame) for frame in replies]

    async def send(
        self,
        type: int,
        frames: Iterable[tuple[int, bytes, Sequence[npt.NDArray[Any]]]],
        topology: Topology,
        *,
        timeout: float,
        layer: int = 0,
    ) -> list[Frame]:
        """Sends ranks their frames of one request, under one tag.

        Args:
            type: Of the request.
            frames: For each rank its fields and its payload; what is the same object as of the rank before is encoded
                once.
            topology: Whose epoch the frames state.
            timeout: Seconds until the last answer.
            layer: Of a step.

        Returns:
            The replies, in the order of the frames.
        """
        tag = self.tag(layer)
        try:
            calls = []
            last: tuple[bytes, Sequence[npt.NDArray[Any]]] | None = None
            for rank, fields, payload in frames:
                if last is None or last[0] is not fields or last[1] is not payload:
                    last, encoded = (fields, payload), encode(type, topology.epoch, tag, fields, payload)
                calls.append(Call(await self.link(rank, topology), type, tag, encoded))
            replies = await self.transport.exchange(calls, timeout)
            for frame in replies:
                if frame.epoch != topology.epoch:
                    self.forget_topology()
            return replies
        except ServiceError as error:
            self.forget_topology(error)
            raise


def reply(request: Request[Q, R], frame: Frame) -> R:
    """The reply in a frame."""
    reader = frame.reader()
    value = request.reply.read(reader)
    reader.end()
    return value


def counted(answers: Sequence[R | ServiceError], count: int, peer: str) -> Sequence[R | ServiceError]:
    """Checks that there is one answer for each item."""
    if len(answers) != count:
        raise ProtocolViolation(
            f"{peer} answered with {len(answers)} answers to {count} items, which does not answer the request; it has "
            "a bug or is of another release."
        )
    return answers
