# SPDX-License-Identifier: Apache-2.0

"""How blocking methods run coroutines."""

from __future__ import annotations

import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from dcp_attention.async_cluster import AsyncCluster

T = TypeVar("T")


class ClusterBase:
    """A client that executes calls one at a time, from any thread."""

    def __init__(self, cluster: AsyncCluster) -> None:
        """Use `connect`."""
        self._cluster = cluster
        self._lock = threading.RLock()

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        with self._lock:
            return finish(coroutine)


def finish(coroutine: Coroutine[Any, Any, T]) -> T:
    """Carries out a coroutine that never waits for a loop: over a `BlockingTransport` each wait is a blocking call."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        value: T = done.value
        return value
    coroutine.close()
    raise RuntimeError("a blocking call waited for a loop")
