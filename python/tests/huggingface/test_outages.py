# SPDX-License-Identifier: Apache-2.0

"""Ranks are killed in the middle of an answer: a delay, and the same tokens."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import dcp_support
import torch
from huggingface.support import generate, ids, small
from transformers.generation.streamers import BaseStreamer

from dcp_attention import Cluster
from dcp_attention.transformers import DCPCache

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Killer(BaseStreamer):
    """Kills a rank at every sixth token, and has it started again while the model goes on."""

    def __init__(self, cluster: dcp_support.LocalCluster) -> None:
        self.cluster = cluster
        self.tokens = 0
        self.kills = 0
        self.starting: threading.Thread | None = None

    def put(self, value: Any) -> None:
        """Counts tokens."""
        self.tokens += 1
        if self.tokens % 6 == 0:
            self.end()
            self.cluster.kill(f"rank-{self.kills % 2}")
            self.kills += 1
            self.starting = threading.Thread(target=self.cluster.start)
            self.starting.start()

    def end(self) -> None:
        """Waits for the last rank to be back."""
        if self.starting is not None:
            self.starting.join()


def test_ranks_are_killed_while_a_model_generates(llama: PreTrainedModel) -> None:
    seed, _ = dcp_support.seeded()
    own = small("gemma2", attention="eager", seed=seed)
    daemons = small("gemma2", seed=seed)
    with dcp_support.cluster(2) as cluster, Cluster.connect(cluster.endpoint) as client:
        killer = Killer(cluster)
        # Sixteen tokens are committed at a time, so that each outage takes some that are not.
        found = generate(daemons, ids(100, seed), 60, past_key_values=DCPCache(client, "killed"), streamer=killer)
        killer.end()
        assert killer.kills >= 9
        assert torch.equal(generate(own, ids(100, seed), 60), found)


def test_beams_outlive_a_rank() -> None:
    seed, _ = dcp_support.seeded()
    with dcp_support.cluster(2) as cluster, Cluster.connect(cluster.endpoint) as client:
        model, cache, beams = small("llama"), DCPCache(client, "beams"), torch.tensor([0, 0, 1, 1])
        own = small("llama", attention="eager")
        with torch.no_grad():
            model(ids(20, seed, 2), past_key_values=cache)
            model(ids(3, seed + 1, 2), past_key_values=cache)
            cache.reorder_cache(beams)
            cluster.kill("rank-1")
            starting = threading.Thread(target=cluster.start)
            starting.start()
            found = model(ids(2, seed + 2, 4), past_key_values=cache).logits
            starting.join()
            rows = torch.cat([torch.cat([ids(20, seed, 2), ids(3, seed + 1, 2)], 1)[beams], ids(2, seed + 2, 4)], 1)
            expected = own(rows).logits[:, -2:]
        # Sums of f32 in another order; see test_generation.
        torch.testing.assert_close(found, expected, atol=1e-4 * float(expected.abs().max()), rtol=0)
