# SPDX-License-Identifier: Apache-2.0

"""What becomes of the sequences of an engine that was killed, and of those of one that lives."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from dcp_support import LocalCluster

from dcp_attention import CacheFormat, Cluster, LayerAttention, ModelDescription
from dcp_attention.vllm import leftovers
from dcp_attention.vllm.leftovers import Life
from dcp_attention.vllm.options import Options

ClusterOf = Callable[[int], LocalCluster]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "BEAT", 0.2)
    monkeypatch.setattr(leftovers, "SILENCE", 3.0)


def test_the_sequences_of_a_killed_engine_are_kept_by_the_next(
    llama: Path, long: list[dict[str, Any]], start: Callable[..., Any], cluster_of: ClusterOf
) -> None:
    local = cluster_of(2)
    engine = start({"model": str(llama), "endpoint": local.endpoint, "runs": long[1:2]})
    assert len(list(islice((line for line in engine.lines() if "request" in line), 20))) == 20
    engine.kill()
    with Cluster.connect(local.endpoint) as cluster:
        left = {sequence.name for sequence in cluster.sequences() if not sequence.retention.is_kept}
        assert len(left) == 5, "four requests and a marker"
        (model,) = cluster.models()
        life = Life(Options(local.endpoint), cluster, model)
        wait_until(lambda: left.isdisjoint(name for name, is_kept in sequences(cluster).items() if not is_kept))
        life.end()
        assert list(sequences(cluster).values()) == 4 * [True]


def test_a_living_engine_is_left_alone(cluster_of: ClusterOf) -> None:
    local = cluster_of(2)
    layer = LayerAttention(query_heads=2, kv_heads=2, key_dim=16, value_dim=16, scale=0.25)
    with Cluster.connect(local.endpoint) as cluster:
        model = cluster.register_model("small", ModelDescription((layer,), CacheFormat.F32))
        living, dead = (Life(Options(local.endpoint), cluster, model) for _ in range(2))
        for life in (living, dead):
            cluster.open(life.sequence_name("a/b"), model)
        cluster.open("mine~0123456789ab.0", model)  # of no engine
        # As SIGKILL does: no sign any more, and nothing is closed.
        dead._has_ended.set()
        dead._thread.join()

        third = Life(Options(local.endpoint), cluster, model)
        wait_until(lambda: f"vllm~{dead.engine}" not in sequences(cluster))
        assert sequences(cluster) == {
            f"vllm~{living.engine}": False,
            f"vllm~{third.engine}": False,
            f"a_b~{living.engine}.0": False,
            f"a_b~{dead.engine}.0": True,
            "mine~0123456789ab.0": False,
        }
        for life in (living, third):
            life.end()
        assert sequences(cluster) == {
            f"a_b~{living.engine}.0": True,
            f"a_b~{dead.engine}.0": True,
            "mine~0123456789ab.0": False,
        }


def test_a_sign_of_life_goes_on_after_an_outage(cluster_of: ClusterOf) -> None:
    local = cluster_of(2)
    layer = LayerAttention(query_heads=2, kv_heads=2, key_dim=16, value_dim=16, scale=0.25)
    with Cluster.connect(local.endpoint) as cluster:
        model = cluster.register_model("small", ModelDescription((layer,), CacheFormat.F32))
        life = Life(Options(local.endpoint), cluster, model)
        marker = cluster.open(f"vllm~{life.engine}")
        for daemon in ("coordinator", "rank-1"):
            local.kill(daemon)
            local.start()
            claim = cluster.status(marker).claim
            wait_until(lambda claim=claim: cluster.status(marker).claim > claim)  # type: ignore[misc]
        life.end()
        assert sequences(cluster) == {}


def sequences(cluster: Cluster) -> dict[str, bool]:
    """Of each sequence whether it is kept."""
    return {sequence.name: sequence.retention.is_kept for sequence in cluster.sequences()}


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)
