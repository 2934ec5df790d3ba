# SPDX-License-Identifier: Apache-2.0

"""TCP: TLS 1.3 with certificates on both sides, and what roles in them may."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import dcp_support
import numpy as np
import pytest
from dcp_support import binary, dcpctl

from dcp_attention import (
    TLS,
    AccessDenied,
    AsyncCluster,
    Cluster,
    Commit,
    Entry,
    InvalidConfiguration,
    ModelDescription,
    RetryableError,
    ServiceError,
    Unreachable,
)


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


class SecureCluster:
    """A coordinator and two ranks over TLS, and the certificates of two clusters."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for name in ("certs", "others"):
            dcpctl("certs", "init", "--directory", directory / name, "--ranks", 2, "--client", "alice")
        coordinator, *ranks = free_ports(3)
        self.endpoint = f"tcp:127.0.0.1:{coordinator}"
        self.processes: list[subprocess.Popen[bytes]] = []
        options = ("--ranks", 2, "--state", directory / "state", "--listen", self.endpoint)
        self._start("dcp-coordinator", "coordinator", *options)
        for rank, port in enumerate(ranks):
            options = ("--rank", rank, "--store", directory / f"rank-{rank}", "--listen", f"tcp:127.0.0.1:{port}")
            self._start("dcp-rank", f"rank-{rank}", *options, "--coordinator", self.endpoint)

    def _start(self, program: str, role: str, *options: object) -> None:
        command = [binary(program), *map(str, options), *self.files(role), "--stop-on-stdin-eof", "--http", "off"]
        with open(self.directory / f"{role}.log", "wb") as log:
            self.processes.append(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT)
            )

    def files(self, role: str) -> list[str]:
        """Options that name the certificates of a role."""
        tls = self.tls(role)
        return ["--tls-ca", str(tls.ca), "--tls-certificate", str(tls.certificate), "--tls-key", str(tls.key)]

    def tls(self, role: str, certificates: str = "certs") -> TLS:
        """The certificates of a role."""
        directory = self.directory / certificates
        return TLS(directory / "ca.pem", directory / f"{role}.pem", directory / f"{role}-key.pem")

    def stop(self) -> None:
        """Stops all daemons."""
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(60)


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureCluster]:
    cluster = SecureCluster(tmp_path_factory.mktemp("tls"))
    try:
        with Cluster.connect(cluster.endpoint, tls=cluster.tls("client-alice"), retry_for=30):
            pass
        yield cluster
    finally:
        cluster.stop()


DESCRIPTION = ModelDescription.uniform(1, query_heads=4, kv_heads=2, key_dim=32, kv_format="f32")


def test_steps_over_tls(secure: SecureCluster) -> None:
    _, random = dcp_support.seeded()
    q, k, v = (random.normal(size=(3000, heads, 32)).astype(np.float32) for heads in (4, 2, 2))
    with Cluster.connect(secure.endpoint, tls=secure.tls("client-alice")) as client:
        sequence = client.open("secure", client.register_model("m", DESCRIPTION))
        answers = [client.step(0, [Entry(sequence, 0, 3000)], q, k, v).out]
        answers += [client.step(0, [Entry(sequence, 3000 + n, 1)], q[n : n + 1], k[:1], v[:1]).out for n in range(20)]
        client.commit([Commit(sequence, 3020)])
        np.testing.assert_array_equal(client.rows(sequence, 0, 0, 3000).keys, k)

    async def main() -> None:
        async with await AsyncCluster.connect(secure.endpoint, tls=secure.tls("client-alice")) as client:
            sequence = await client.open("secure-too", "m")
            answer = await client.step(0, [Entry(sequence, 0, 3000)], q, k, v)
            np.testing.assert_array_equal(answer.out, answers[0])
            for n in range(20):
                entry = [Entry(sequence, 3000 + n, 1)]
                answer = await client.step(0, entry, q[n : n + 1], k[:1], v[:1])
                np.testing.assert_array_equal(answer.out, answers[1 + n])

    asyncio.run(main())


def connect(endpoint: str, tls: TLS | None) -> None:
    Cluster.connect(endpoint, tls=tls, retry_for=0).close()


def connect_async(endpoint: str, tls: TLS | None) -> None:
    async def main() -> None:
        cluster = await AsyncCluster.connect(endpoint, tls=tls, retry_for=0)
        await cluster.close()

    asyncio.run(main())


@pytest.mark.parametrize("dial", [connect, connect_async])
class TestRefusals:
    """Whoever is not who it has to be, over either kind of connection."""

    def test_a_rank_of_another_authority(self, secure: SecureCluster, dial: object) -> None:
        assert callable(dial)
        with pytest.raises(AccessDenied, match="use files that `dcpctl certs` made for this cluster"):
            dial(secure.endpoint, secure.tls("client-alice", "others"))

    def test_an_authority_that_others_trust_and_a_certificate_they_do_not(
        self, secure: SecureCluster, dial: object
    ) -> None:
        assert callable(dial)
        ours, others = secure.tls("client-alice"), secure.tls("client-alice", "others")
        with pytest.raises(ServiceError):
            dial(secure.endpoint, TLS(ours.ca, others.certificate, others.key))

    def test_a_rank_that_is_dialled_as_the_coordinator(self, secure: SecureCluster, dial: object) -> None:
        assert callable(dial)
        with Cluster.connect(secure.endpoint, tls=secure.tls("client-alice")) as client:
            endpoint = client.topology().endpoints[1]
        assert endpoint is not None
        with pytest.raises(AccessDenied, match="is for dcp:rank:1, not for dcp:coordinator; correct the address"):
            dial(endpoint, secure.tls("client-alice"))

    def test_plain_text_is_told_what_is_missing(self, secure: SecureCluster, dial: object) -> None:
        assert callable(dial)
        with pytest.raises(ServiceError, match="TLS"):
            dial(secure.endpoint, None)


@pytest.mark.parametrize("dial", [connect, connect_async])
@pytest.mark.parametrize("received", [0, 16 << 10])
def test_a_daemon_that_goes_during_the_handshake_may_come_back(
    secure: SecureCluster, dial: object, received: int
) -> None:
    assert callable(dial)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            peer, _ = listener.accept()
            with peer:
                if received:
                    peer.recv(received)

        thread = threading.Thread(target=serve)
        thread.start()
        # With `retry_for` it is dialled again: the error is retryable.
        with pytest.raises(Unreachable, match=r"does not answer at tcp:127\.0\.0\.1:\d+ \(.+\); start it"):
            dial(f"tcp:127.0.0.1:{listener.getsockname()[1]}", secure.tls("client-alice"))
        thread.join()


def test_a_ranks_certificate_is_no_clients_at_a_rank(secure: SecureCluster) -> None:
    """It passes for a client's at the coordinator, to read the topology; the rank then refuses it."""
    with Cluster.connect(secure.endpoint, tls=secure.tls("client-alice"), retry_for=0) as client:
        model = client.register_model("m", DESCRIPTION)
        client.open("of-alice", model)
    with Cluster.connect(secure.endpoint, tls=secure.tls("rank-1"), retry_for=0) as client:
        with pytest.raises(AccessDenied, match="rank:1 has the right to read, but register model requires"):
            client.register_model("m", DESCRIPTION)
        sequence = client.open("of-alice")
        with pytest.raises(AccessDenied, match="The certificate is for dcp:rank:1, but the hello is from a client"):
            client.status(sequence)


def test_a_rank_takes_a_claim_from_its_holder_alone(secure: SecureCluster) -> None:
    """Its number is no secret: a status tells it to everybody who may read."""
    dcpctl("certs", "add", "--directory", secure.directory / "certs", "--client", "mallory", "--rights", "use")
    _, random = dcp_support.seeded()
    q, k, v = (random.normal(size=(10, heads, 32)).astype(np.float32) for heads in (4, 2, 2))
    with Cluster.connect(secure.endpoint, tls=secure.tls("client-alice"), retry_for=0) as alice:
        held = alice.open("held", alice.register_model("m", DESCRIPTION))
        alice.step(0, [Entry(held, 0, 10)], q, k, v)
        claim = alice._cluster._claims.good(held.id, alice.topology().epoch)
        assert claim is not None
        with Cluster.connect(secure.endpoint, tls=secure.tls("client-mallory"), retry_for=0) as mallory:
            stolen = mallory.open("held", "m")
            mallory._cluster._claims.given(stolen.id, claim)
            with pytest.raises(AccessDenied, match="belongs to client:alice, and client:mallory has the right to use"):
                mallory.commit([Commit(stolen, 10)])
            with pytest.raises(AccessDenied, match="belongs to client:alice"):
                mallory.step(0, [Entry(stolen, 10, 1)], q[:1], k[:1], v[:1])
        # Nothing of it has touched what alice holds.
        alice.commit([Commit(held, 10)])
        np.testing.assert_array_equal(alice.rows(held, 0, 0, 10).keys, k)


def test_files_that_cannot_be_used(secure: SecureCluster, tmp_path: Path) -> None:
    good = secure.tls("client-alice")
    with pytest.raises(
        InvalidConfiguration, match=r"The authority .*nobody\.pem cannot be used .*; name the cluster's ca"
    ):
        connect(secure.endpoint, TLS(tmp_path / "nobody.pem", good.certificate, good.key))
    with pytest.raises(InvalidConfiguration, match="cannot be used together"):
        connect(secure.endpoint, TLS(good.ca, good.certificate, secure.tls("rank-0").key))


def test_files_of_the_environment(secure: SecureCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    tls = secure.tls("client-alice")
    monkeypatch.setenv("DCP_COORDINATOR", secure.endpoint)
    monkeypatch.setenv("DCP_TLS_CA", str(tls.ca))
    with pytest.raises(InvalidConfiguration, match="DCP_TLS_CERTIFICATE and DCP_TLS_KEY is not set"):
        Cluster.connect()
    monkeypatch.setenv("DCP_TLS_CERTIFICATE", str(tls.certificate))
    monkeypatch.setenv("DCP_TLS_KEY", str(tls.key))
    with Cluster.connect() as client:
        assert client.topology().shape.ranks == 2


def test_a_listener_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dcp_attention._io.blocking.DIAL_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"tcp:127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(RetryableError, match="did not answer within"):
            Cluster.connect(endpoint, retry_for=0)
