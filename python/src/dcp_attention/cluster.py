# SPDX-License-Identifier: Apache-2.0

"""A cluster for callers that wait: `Cluster`."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from dcp_attention._cluster.attention import ClusterAttention
from dcp_attention._cluster.base import finish
from dcp_attention._cluster.directory import ClusterDirectory
from dcp_attention._io.blocking import BlockingTransport
from dcp_attention.async_cluster import AsyncCluster
from dcp_attention.values import Topology

if TYPE_CHECKING:
    from typing_extensions import Self

    from dcp_attention.security import TLS


class Cluster(ClusterDirectory, ClusterAttention):
    """A DCP cluster as its clients see it: models, sequences, steps.

    Any thread may call it; calls are carried out one after the other. A signal handler or a finalizer that interrupts a
    call cannot make another one in its thread: that is an `InvalidRequest`. Every call ends: a request after
    ``timeout``, a step after ``step_timeout``, an outage after ``retry_for`` seconds.

    **Outages.** While ``retry_for`` lasts, what fails retryably is done again: the client waits for the cluster, makes
    the ranks agree on the sequences, appends again the keys and values that they have lost and that were not
    committed, which it keeps for that, and repeats the call. Callers see a delay. With ``retry_for=0`` nothing is kept
    and every failure is raised; then call `resume` before going on. A sequence of which another process appended
    tokens and did not commit them cannot be restored: `TokensLost` says where it ends.

    **After a fork** the child process has connections of its own, and is another client: the sequences that its parent
    uses stay the parent's until the child uses them. An `AsyncCluster` is of the loop that made it: a child makes its
    own.

    **One client at a time** uses a sequence. A client claims it with `resume`, or with its first call that attends to
    it or changes it, and takes it over with that from whoever had it. The former client's calls are then refused as
    `Claimed`, until it calls `resume`.
    """

    @classmethod
    def connect(
        cls,
        endpoint: str | None = None,
        *,
        tls: TLS | None = None,
        timeout: float = 30,
        step_timeout: float = 60,
        retry_for: float = 60,
    ) -> Self:
        """Connects to a coordinator, and waits until its cluster is ready.

        Args:
            endpoint: ``unix:PATH`` or ``tcp:HOST:PORT``; ``None`` is the environment variable ``DCP_COORDINATOR``, else
                ``unix:/run/dcp/coordinator.sock``.
            tls: Who this client is, for TCP; ``None`` is what ``DCP_TLS_CA``, ``DCP_TLS_CERTIFICATE`` and
                ``DCP_TLS_KEY`` name, or plain TCP, at loopback addresses only.
            timeout: Seconds that a request may take, but a step.
            step_timeout: Seconds that a step may take.
            retry_for: Seconds for which an outage is waited out, the first connection included.

        Raises:
            Unreachable: Nobody has listened there for ``retry_for`` seconds.
            NotReady: The cluster was not ready for as long; the message names the missing ranks.
            AccessDenied: This user or certificate may not.
            Incompatible: The cluster speaks another version of the protocol.
            InvalidConfiguration: The endpoint or a certificate is no good.
            InvalidRequest: A time is negative, or too long for a timeout.
        """
        transport = BlockingTransport()
        return cls(
            finish(
                AsyncCluster.connect(
                    endpoint,
                    tls=tls,
                    timeout=timeout,
                    step_timeout=step_timeout,
                    retry_for=retry_for,
                    transport=transport,
                )
            )
        )

    def close(self) -> None:
        """Closes the connections, after the call that another thread makes; later calls are refused. Those that
        `AsyncCluster` makes fail. The ranks roll uncommitted tokens back 15 seconds later (``claim-timeout``).
        """
        self._run(self._cluster.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # The cluster.

    def topology(self, wait: float = 0) -> Topology:
        """The cluster's status; waits up to ``wait`` seconds for it to become ready, and answers in any case."""
        return self._run(self._cluster.topology(wait))
