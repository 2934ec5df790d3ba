# SPDX-License-Identifier: Apache-2.0

"""How blocking methods run coroutines."""

from __future__ import annotations

import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from dcp_attention._io.forks import in_children
from dcp_attention.async_cluster import AsyncCluster
from dcp_attention.errors import InvalidRequest

T = TypeVar("T")


class ClusterBase:
    """A client that executes calls one at a time, from any thread."""

    def __init__(self, cluster: AsyncCluster) -> None:
        """Use `connect`."""
        self._cluster = cluster
        self._lock = threading.RLock()
        self._is_running = False
        in_children(self, ClusterBase._forked)

    def _forked(self) -> None:
        """In a child process: whoever of the parent's threads has the lock is not in the child."""
        self._lock = threading.RLock()
        self._is_running = False

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        # The thread that runs a call has the lock, and passes it. With another kind it would wait for itself.
        with self._lock:
            if self._is_running:
                coroutine.close()
                raise InvalidRequest(
                    "A call of this client is under way in this thread, which a signal handler or a finalizer "
                    "interrupted to make another one; set a flag there and call afterwards, or use another client."
                )
            try:
                self._is_running = True
                return finish(coroutine)
            finally:
                self._is_running = False


def finish(coroutine: Coroutine[Any, Any, T]) -> T:
    """Carries out a coroutine that never waits for a loop: over a `BlockingTransport` each wait is a blocking call."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        value: T = done.value
        return value
    coroutine.close()
    raise RuntimeError("a blocking call waited for a loop")
