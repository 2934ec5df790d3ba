# SPDX-License-Identifier: Apache-2.0

"""Both halves, with a cluster and without a vLLM: sequences that are evicted under requests."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from dcp_support import LocalCluster

from dcp_attention import CacheFormat, Cluster, Evicted, LayerAttention, ModelDescription, Sequence
from dcp_attention.vllm.leftovers import Life
from dcp_attention.vllm.options import Options
from dcp_attention.vllm.scheduler import SchedulerSide
from dcp_attention.vllm.worker import WorkerSide


@dataclass
class Request:
    """What the scheduler's half asks of vLLM's."""

    request_id: str
    all_token_ids: list[int]
    num_computed_tokens: int = 0
    cache_salt: str | None = None
    skip_reading_prefix_cache: bool = False

    @property
    def num_tokens(self) -> int:
        return len(self.all_token_ids)


class Engine:
    """What vLLM does with both halves.

    Attributes:
        cluster: The scheduler's client.
    """

    def __init__(self, endpoint: str) -> None:
        layer = LayerAttention(query_heads=2, kv_heads=2, key_dim=16, value_dim=16, scale=0.25)
        options = Options(endpoint)
        self.cluster = Cluster.connect(endpoint)
        self._workers = Cluster.connect(endpoint)
        model = self.cluster.register_model("one", ModelDescription((layer,), CacheFormat.F32))
        self._life = Life(options, self.cluster, model)
        self.scheduler = SchedulerSide(options, self.cluster, model, self._life)
        self._worker = WorkerSide(self._workers, ["only"])

    def start(self, *requests: Request) -> list[int]:
        """Admits requests, each with a first block that is its last token; returns how much of each was matched."""
        matched = []
        for request in requests:
            matched.append(self.scheduler.matched_tokens(request))
            request.num_computed_tokens = matched[-1]
            self.scheduler.admit(request, request.all_token_ids[-1], matched[-1])
        return matched

    def step(self, *requests: Request) -> None:
        """Computes all tokens of requests that are not computed."""
        counts = [request.num_tokens - request.num_computed_tokens for request in requests]
        self._worker.begin(
            self.scheduler.next_plan({r.request_id: count for r, count in zip(requests, counts, strict=True)})
        )
        if requests:
            blocks = [request.all_token_ids[-1] for request in requests]
            entries = self._worker.entries(blocks, [request.num_computed_tokens for request in requests], counts)
            rows = np.ones((sum(counts), 2, 16), np.float32)
            self._worker.step("only", entries, rows, rows, rows)
        self._worker.commit()
        for request in requests:
            request.num_computed_tokens = request.num_tokens

    def sequence(self, request: Request) -> Sequence:
        """The latest of a request's."""
        return [one for one in self.cluster.sequences() if one.name.startswith(f"{request.request_id}~")][-1]

    def evict(self, *requests: Request) -> None:
        """Has the coordinator close their sequences: as old ones, which is the same to a client as to make room."""
        sequences = [self.sequence(request) for request in requests]
        for sequence in sequences:
            self.cluster.retain(sequence, time_to_live=1)
        deadline = time.monotonic() + 60
        while set(sequences) & set(self.cluster.sequences()):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        for sequence in sequences:
            with pytest.raises(Evicted):
                self.cluster.open(sequence.name)

    def close(self) -> None:
        self._worker.close()
        self._life.end()
        self._workers.close()
        self.cluster.close()


@pytest.fixture
def engine(cluster_of: Callable[[int], LocalCluster]) -> Iterator[Engine]:
    engine = Engine(cluster_of(2).endpoint)
    yield engine
    engine.close()


def test_requests_whose_sequences_are_evicted_while_they_wait_begin_anew(engine: Engine) -> None:
    runs, waits, preempted = (Request(name, list(range(at, at + 5))) for name, at in (("r", 0), ("w", 10), ("p", 20)))
    assert engine.start(runs, preempted) == [0, 0]
    assert engine.scheduler.matched_tokens(waits) == 0
    engine.step(runs, preempted)
    preempted.num_computed_tokens = 0
    engine.evict(waits, preempted)
    runs.all_token_ids.append(runs.all_token_ids[-1])
    assert engine.start(waits, preempted) == [0, 0]
    engine.step(runs, waits, preempted)
    for request in (runs, waits, preempted):
        assert engine.cluster.token_ids(engine.sequence(request)).tolist() == request.all_token_ids
        engine.scheduler.finish(request.request_id)
    engine.step()
    assert all(engine.sequence(request).retention.is_kept for request in (runs, waits, preempted))


def test_requests_end_whose_sequences_were_evicted(engine: Engine) -> None:
    runs, waits, ran, preempted = (
        Request(name, list(range(at, at + 5))) for name, at in (("r", 0), ("w", 10), ("o", 20), ("p", 30))
    )
    engine.start(runs, ran, preempted)
    engine.scheduler.matched_tokens(waits)
    engine.step(runs, ran, preempted)
    preempted.num_computed_tokens = 0
    engine.evict(waits, ran, preempted)
    assert engine.scheduler.matched_tokens(preempted) == 0
    for request in (waits, ran, preempted):
        engine.scheduler.finish(request.request_id)
    runs.all_token_ids.append(runs.all_token_ids[-1])
    engine.step(runs)
    assert engine.cluster.token_ids(engine.sequence(runs)).tolist() == runs.all_token_ids
    # Nor are any left: the new sequence of the preempted one is closed.
    assert len([one for one in engine.cluster.sequences() if not one.name.startswith("vllm~")]) == 1
