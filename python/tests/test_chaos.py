# SPDX-License-Identifier: Apache-2.0

"""Random calls about several sequences while daemons are killed: what a client knows is what it reads, always."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import dcp_support
import pytest
from dcp_support import LocalCluster, seeded
from test_property import Script

from dcp_attention import CacheFormat, Cluster, LayerAttention, ModelDescription

KILLS = int(os.environ.get("DCP_KILLS") or 6)
LAYERS = (
    LayerAttention(query_heads=4, kv_heads=2, key_dim=16),
    LayerAttention(query_heads=4, kv_heads=2, key_dim=16, window=9),
)


class Killer:
    """Kills daemons beside the script, each when the one before is back and the script goes on."""

    def __init__(self, cluster: LocalCluster, daemons: list[str]) -> None:
        self._cluster = cluster
        self._daemons = daemons
        self._thread = threading.Thread(target=lambda: None)
        self._thread.start()
        self.failure: BaseException | None = None

    @property
    def is_done(self) -> bool:
        """Whether all have been killed and are back."""
        return not self._daemons and not self._thread.is_alive()

    def next(self) -> None:
        """Begins with the next one, unless the one before is not back yet."""
        if self._thread.is_alive() or not self._daemons:
            return
        daemon = self._daemons.pop()

        def run() -> None:
            try:
                self._cluster.kill(daemon)
                self._cluster.start()
            except BaseException as error:
                self.failure = error
                raise

        self._thread = threading.Thread(target=run)
        self._thread.start()

    def join(self) -> None:
        """Waits until everything is back."""
        self._thread.join()
        assert self.failure is None, self.failure


@pytest.mark.parametrize("kv_format", [CacheFormat.F32, CacheFormat.BF16], ids=["f32", "bf16"])
def test_random_calls_while_daemons_are_killed(kv_format: CacheFormat) -> None:
    seed, random = seeded()
    names = ["rank-0", "rank-1", "rank-2", "coordinator"]
    daemons = [names[int(random.integers(len(names)))] for _ in range(KILLS)]
    with (
        dcp_support.cluster(3, "--block-tokens", 16) as cluster,
        Cluster.connect(cluster.endpoint, retry_for=120) as client,
    ):
        model = client.register_model(f"chaos-{seed}", ModelDescription(LAYERS, kv_format))
        script = Script(client, model, random)
        killer = Killer(cluster, daemons)
        script.open()
        actions: list[Callable[[], None]] = [script.step, script.commit, script.fork, script.cut, script.read]
        try:
            while not killer.is_done:
                killer.next()
                script.step()
                actions[int(random.integers(len(actions)))]()
                while len(script.twins) > 3:
                    client.close_sequences([script.twins.pop(0).sequence])
                if all(twin.length > 400 for twin in script.twins):
                    script.open()
        finally:
            killer.join()
        script.read()
