# SPDX-License-Identifier: Apache-2.0

"""Connections that end, are interrupted, or are given up in the middle; their peers are sockets of the test."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import threading
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from dcp_support import LocalCluster, seeded

from dcp_attention import AsyncCluster, Cluster, DeadlineExceeded, InvalidRequest, ServiceError, ShuttingDown
from dcp_attention._client.session import Session
from dcp_attention._cluster.base import finish
from dcp_attention._io.blocking import BlockingLink, BlockingTransport
from dcp_attention._io.conversation import COORDINATOR, RANK
from dcp_attention._io.endpoint import Endpoint, Peer
from dcp_attention._io.loop import LoopTransport
from dcp_attention._io.transport import Call
from dcp_attention._wire.codec import FAILURE
from dcp_attention._wire.frame import NO_TAG, Encoded, Tag, encode
from dcp_attention._wire.requests import FAILURE_TYPE, HELLO, REPLY_BIT, WELCOME_TYPE, Hello, Wait
from dcp_attention.values import Phase

TYPE = 0x0204
HEADER = 64


def joined(*frames: Encoded) -> bytes:
    return b"".join(bytes(piece) for frame in frames for piece in frame.pieces)


def call(link: object, number: int, payload: np.ndarray | None = None) -> Call:
    tag = Tag(7, number)
    return Call(link, TYPE, tag, encode(TYPE, 1, tag, b"", () if payload is None else (payload,)))


def pair() -> tuple[BlockingLink, socket.socket]:
    """A welcome client's end, and its peer's."""
    ours, theirs = socket.socketpair()
    link = BlockingLink(Peer(Endpoint("unix:/x", path="/x"), 0), ours)
    link.conversation.is_welcome = True
    return link, theirs


def test_a_peer_that_stops_with_its_answer_is_left() -> None:
    link, peer = pair()
    fields = bytearray()
    FAILURE.write(fields, ShuttingDown("rank 0 has stopped.", rank=0))
    # What a rank that stops sends at once: its last answer, and why it closes the connection.
    answer = encode(TYPE | REPLY_BIT, 1, Tag(7, 1), b"")
    peer.sendall(joined(answer, encode(FAILURE_TYPE, 0, NO_TAG, bytes(fields))))
    peer.close()
    (frame,) = finish(BlockingTransport().exchange([call(link, 1)], 5))
    assert frame.tag == Tag(7, 1)
    assert not link.is_open
    with pytest.raises(ShuttingDown, match="rank 0 has stopped"):
        finish(BlockingTransport().exchange([call(link, 2)], 5))


def test_an_interrupted_answer_is_nobody_elses() -> None:
    _, random = seeded()
    payload = np.zeros(16 << 20, np.uint8)

    def serve(peer: socket.socket) -> None:
        # It ends when the client has closed the connection.
        with suppress(OSError):
            for number in (1, 2):
                peer.recv(HEADER, socket.MSG_WAITALL)
                peer.sendall(joined(encode(TYPE | REPLY_BIT, 1, Tag(7, number), b"", (payload,))))

    awaited = threading.Event()

    def interrupt(*_: object) -> None:
        if awaited.is_set():
            raise KeyboardInterrupt

    former = signal.signal(signal.SIGALRM, interrupt)
    transport = BlockingTransport()
    try:
        for _ in range(24):
            link, peer = pair()
            server = threading.Thread(target=serve, args=(peer,))
            server.start()
            with suppress(KeyboardInterrupt):
                awaited.set()
                signal.setitimer(signal.ITIMER_REAL, float(random.uniform(0.0005, 0.012)))
                finish(transport.exchange([call(link, 1)], 5))
                awaited.clear()
            if link.is_open:
                (frame,) = finish(transport.exchange([call(link, 2)], 5))
                assert frame.tag == Tag(7, 2)
            link.close()
            peer.close()
            server.join()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)


async def welcoming(path: Path, role: int, rank: int | None) -> asyncio.Server:
    """A peer that welcomes whoever dials, and answers nothing and reads nothing after that."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(HEADER)
        fields = bytearray()
        HELLO.write(fields, Hello(role, rank, 1, "x", "0"))
        writer.write(joined(encode(WELCOME_TYPE, 0, NO_TAG, bytes(fields))))

    return await asyncio.start_unix_server(serve, path, limit=1 << 10)


def test_a_cancelled_connect_leaves_no_connection(tmp_path: Path) -> None:
    async def run() -> None:
        server = await welcoming(tmp_path / "s", COORDINATOR, None)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(AsyncCluster.connect(f"unix:{tmp_path}/s"), 0.1)
        # The peer's ends stay open until it sees that the client's are closed.
        server.close()
        gc.collect()
        clients = len(os.listdir("/proc/self/fd")) - before
        assert clients <= 5, f"{clients} descriptors for 5 connections that the peer alone still has"

    asyncio.run(run())


def test_a_frame_that_is_given_up_in_the_middle_ends_its_connection(tmp_path: Path) -> None:
    async def run() -> None:
        server = await welcoming(tmp_path / "s", RANK, 0)
        transport = LoopTransport()
        link = await transport.open(Peer(Endpoint(f"unix:{tmp_path}/s", path=f"{tmp_path}/s"), 0), None)
        with pytest.raises(DeadlineExceeded):
            await transport.exchange([call(link, 1)], 0.1)
        assert link.is_open, "the request was sent whole"
        tensor = np.zeros(32 << 20, np.uint8)
        with pytest.raises(DeadlineExceeded):
            await transport.exchange([call(link, 2, tensor)], 0.1)
        assert not link.is_open
        await transport.close(link)
        server.close()

    asyncio.run(run())


def test_tasks_that_ask_for_the_topology_close_what_has_moved_once(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []

    class Network:
        async def close(self, link: Any) -> None:
            closed.append(link.peer.endpoint.text)
            await asyncio.sleep(0.01)

    def link(address: str) -> Any:
        return SimpleNamespace(is_open=True, peer=SimpleNamespace(endpoint=SimpleNamespace(text=address)))

    async def run() -> None:
        session = Session(cast(Any, Network()), cast(Any, None), None, 1, 1)
        session._links = {rank: link(f"unix:/{rank}") for rank in range(3)}

        async def ask(*_: object, **__: object) -> object:
            await asyncio.sleep(0)
            return SimpleNamespace(endpoints=(None, "unix:/1", None), epoch=2)

        monkeypatch.setattr(session, "ask", ask)
        await asyncio.gather(session.topology(), session.topology())
        assert list(session._links) == [1]

    asyncio.run(run())
    assert closed == ["unix:/0", "unix:/2"]


def test_a_wait_may_be_longer_than_the_coordinators(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def run(ready_after: int) -> Phase:
        session = Session(cast(Any, None), cast(Any, None), None, 1, 1)

        async def ask(_: object, request: Wait, **__: object) -> object:
            waits.append(request.milliseconds / 1000)
            phase = Phase.READY if len(waits) > ready_after else Phase.JOINING
            return SimpleNamespace(endpoints=(), epoch=2, phase=phase)

        monkeypatch.setattr(session, "ask", ask)
        return (await session.topology(1500)).phase

    assert asyncio.run(run(ready_after=3)) is not Phase.READY
    assert waits == [600, 600, 300]
    waits.clear()
    assert asyncio.run(run(ready_after=1)) is Phase.READY
    assert waits == [600, 600]


def test_a_child_process_has_connections_of_its_own(running: LocalCluster) -> None:
    with Cluster.connect(running.endpoint) as cluster:
        epoch = cluster.topology().epoch
        child = os.fork()
        if child == 0:
            status = 1
            try:
                status = 0 if all(cluster.topology().epoch == epoch for _ in range(100)) else 2
            except ServiceError:
                status = 3
            finally:
                os._exit(status)
        for _ in range(100):
            assert cluster.topology().epoch == epoch
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_child_process_does_not_wait_for_its_parents_threads(running: LocalCluster) -> None:
    with Cluster.connect(running.endpoint) as cluster:
        is_called, is_forked = threading.Event(), threading.Event()

        async def call() -> None:
            is_called.set()
            is_forked.wait()

        thread = threading.Thread(target=lambda: cluster._run(call()))
        thread.start()
        is_called.wait()
        child = os.fork()
        if child == 0:
            signal.alarm(30)
            with suppress(ServiceError):
                cluster.topology()
                os._exit(0)
            os._exit(1)
        is_forked.set()
        thread.join()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_signal_handler_makes_no_call_within_a_call(running: LocalCluster) -> None:
    refusals: list[str] = []

    def handle(*_: object) -> None:
        with pytest.raises(InvalidRequest) as caught:
            cluster.close()
        refusals.append(caught.value.message)

    async def interrupted() -> int:
        signal.raise_signal(signal.SIGUSR1)
        return 1

    former = signal.signal(signal.SIGUSR1, handle)
    try:
        with Cluster.connect(running.endpoint) as cluster:
            assert cluster._run(interrupted()) == 1
            assert "set a flag there and call afterwards" in refusals[0]
            assert cluster.models() is not None
    finally:
        signal.signal(signal.SIGUSR1, former)


def test_calls_that_share_a_key_run_in_the_order_in_which_they_were_made() -> None:
    async def run() -> None:
        transport = LoopTransport()
        order: list[str] = []
        goes_on = asyncio.Event()

        async def call(name: str, *keys: int, waits: bool = False) -> None:
            async with transport.lock(keys):
                order.append(name)
                if waits:
                    await goes_on.wait()

        async def made(name: str, *keys: int, waits: bool = False) -> asyncio.Task[None]:
            task = asyncio.create_task(call(name, *keys, waits=waits))
            await asyncio.sleep(0)
            return task

        tasks = [await made("1", 1, waits=True), await made("12", 2, 1, 2), await made("2", 2), await made("3", 3)]
        given_up = await made("23", 2, 3)
        tasks += [await made("3 again", 3), await made("23 again", 3, 2)]
        assert order == ["1", "3"]
        given_up.cancel()
        await asyncio.wait([given_up])
        await asyncio.sleep(0)
        assert order == ["1", "3", "3 again"]
        goes_on.set()
        await asyncio.gather(*tasks)
        assert order == ["1", "3", "3 again", "12", "2", "23 again"]
        assert transport._queues == {}

    asyncio.run(run())


def test_a_client_is_closed_for_good(running: LocalCluster) -> None:
    cluster = Cluster.connect(running.endpoint)
    cluster.close()
    cluster.close()
    for call in (cluster.topology, cluster.models):
        with pytest.raises(InvalidRequest, match="This client is closed; connect another one"):
            call()
    assert cluster._cluster._session._links == {}


def test_a_connection_that_is_made_during_the_close_is_closed(tmp_path: Path) -> None:
    async def run() -> None:
        is_dialled, is_closed = asyncio.Event(), asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readexactly(HEADER)
            is_dialled.set()
            await is_closed.wait()
            fields = bytearray()
            HELLO.write(fields, Hello(COORDINATOR, None, 1, "x", "0"))
            writer.write(joined(encode(WELCOME_TYPE, 0, NO_TAG, bytes(fields))))

        server = await asyncio.start_unix_server(serve, tmp_path / "s")
        session = Session(LoopTransport(), Endpoint(f"unix:{tmp_path}/s", path=f"{tmp_path}/s"), None, 5, 5)
        dial = asyncio.create_task(session.link(None))
        await is_dialled.wait()
        await session.close()
        is_closed.set()
        with pytest.raises(InvalidRequest, match="This client is closed"):
            await dial
        assert session._links == {}
        server.close()

    asyncio.run(run())
