# SPDX-License-Identifier: Apache-2.0

"""Ranks are killed in the middle of an answer: a delay, and the same tokens."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import dcp_support
import pytest
import torch
from huggingface.support import generate, ids, padded, small
from transformers.generation.streamers import BaseStreamer

from dcp_attention import Cluster, RetryableError, TokensLost
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


@contextmanager
def interrupted(model: PreTrainedModel) -> Iterator[None]:
    """Forward passes of the model end in its third layer, as Ctrl-C ends them."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    handle = model.get_submodule("model.layers.2").register_forward_pre_hook(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        handle.remove()


def followed(batch: dict[str, torch.Tensor], said: torch.Tensor) -> dict[str, torch.Tensor]:
    """A batch with what was said to it; padding stays where it was."""
    answer = torch.ones(said.shape[0], said.shape[1] - batch["input_ids"].shape[1], dtype=torch.long)
    return {"input_ids": said, "attention_mask": torch.cat([batch["attention_mask"], answer], 1)}


def test_an_outage_that_lasts_too_long_costs_a_cache_nothing(llama: PreTrainedModel) -> None:
    seed, _ = dcp_support.seeded()
    own = small("llama", attention="eager")
    with dcp_support.cluster(2) as cluster, Cluster.connect(cluster.endpoint, retry_for=1) as client:
        cache = DCPCache(client, "too-long")
        said = generate(llama, ids(20, seed), 8, past_key_values=cache)
        assert (cache.get_seq_length(), client.status(client.open("too-long")).committed) == (27, 20)
        cluster.kill("rank-1")
        with pytest.raises(RetryableError):
            generate(llama, said, 4, past_key_values=cache)
        cluster.start()
        client.topology(60)
        assert torch.equal(generate(llama, said, 4, past_key_values=cache), generate(own, said, 4))


def test_an_interrupted_pass_costs_a_cache_nothing(llama: PreTrainedModel) -> None:
    _, numbers = dcp_support.seeded()
    own = small("llama", attention="eager")
    batch = padded([numbers.integers(3, 500, length).tolist() for length in (9, 20)])
    with dcp_support.cluster(2) as cluster, Cluster.connect(cluster.endpoint) as client:
        cache = DCPCache(client, "interrupted")
        said = generate(llama, batch, 8, past_key_values=cache)
        more = followed(batch, said)
        for _ in range(2):
            with interrupted(llama):
                generate(llama, more, 4, past_key_values=cache)
            cluster.kill("rank-1")
            cluster.start()
        assert torch.equal(generate(llama, more, 4, past_key_values=cache), generate(own, more, 4))


@pytest.mark.parametrize("in_a_pass", [False, True])
def test_lost_tokens_are_said_once_and_computed_again(llama: PreTrainedModel, in_a_pass: bool) -> None:
    _, numbers = dcp_support.seeded()
    own = small("llama", attention="eager")
    batch = padded([numbers.integers(3, 500, length).tolist() for length in (9, 20)])
    with dcp_support.cluster(2) as cluster, Cluster.connect(cluster.endpoint) as client:
        cache = DCPCache(client, "lost")
        said = generate(llama, batch, 8, past_key_values=cache)
        more = followed(batch, said)
        if in_a_pass:
            with interrupted(llama):
                generate(llama, more, 4, past_key_values=cache)
        # Whoever resumes a sequence gives up what the client had kept of it.
        client.resume(client.open("lost/1"))
        cluster.kill("rank-0")
        cluster.start()
        assert cache.get_seq_length() == 27
        with pytest.raises(TokensLost):
            generate(llama, more, 4, past_key_values=cache)
        assert cache.get_seq_length() == 20
        assert torch.equal(generate(llama, more, 4, past_key_values=cache), generate(own, more, 4))
        with cache:
            pass
        row = said[1].tolist()
        assert client.token_ids(client.open("lost/1")).tolist()[:28] == row


def test_an_interrupted_pass_of_another_model_is_not_the_caches(llama: PreTrainedModel, two: Cluster) -> None:
    seed, _ = dcp_support.seeded()
    other, cache = small("llama", attention="eager", seed=2), DCPCache(two, f"others-{seed}")
    with interrupted(other):
        generate(other, ids(20, seed), 4)
    expected = generate(small("llama", attention="eager"), ids(20, seed), 4)
    assert torch.equal(generate(llama, ids(20, seed), 4, past_key_values=cache), expected)
