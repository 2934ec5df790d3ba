# SPDX-License-Identifier: Apache-2.0

"""Which queries each rank is sent, where the caller does not say it: what costs less."""

from __future__ import annotations

import numpy as np
import pytest

from dcp_attention import (
    CacheFormat,
    ClusterShape,
    Entry,
    Exchange,
    LayerAttention,
    Model,
    ModelDescription,
    QueryMode,
    Sequence,
)
from dcp_attention._client.plan import contents
from dcp_attention.values import Phase, Topology

HQ, HKV, D = 32, 8, 128


def query_heads(
    ranks: int, tokens: int, *, position: int = 7, endpoint: str = "unix:/run/dcp/r", mode: QueryMode | None = None
) -> list[int]:
    """How many heads' queries each rank is sent."""
    layer = LayerAttention(query_heads=HQ, kv_heads=HKV, key_dim=D)
    model = Model(1, "m", ModelDescription((layer,), CacheFormat.BF16))
    sequence = Sequence(1, "s", model)
    shape = ClusterShape(ranks, 1, 1, 64, Exchange.ALL_TO_ALL)
    topology = Topology(1, Phase.READY, "", shape, 1000, (endpoint,) * ranks, 17)
    q, k, v = (np.zeros((tokens, heads, D), np.uint16) for heads in (HQ, HKV, HKV))
    step = contents(0, [Entry(sequence, position, tokens)], q, k, v, query_mode=mode)
    return [payload[0].shape[0] for _, _, payload in step.frames(topology, [1], 60)]


@pytest.mark.parametrize(
    ("ranks", "tokens", "endpoint", "replicates"),
    [
        (2, 1, "unix:/run/dcp/r", True),
        (2, 32, "unix:/run/dcp/r", True),
        (2, 33, "unix:/run/dcp/r", False),
        (5, 8, "unix:/run/dcp/r", True),
        (5, 9, "unix:/run/dcp/r", False),
        (2, 8, "tcp:10.0.0.1:7400", True),
        (2, 9, "tcp:10.0.0.1:7400", False),
    ],
)
def test_few_queries_go_to_all_ranks_and_many_to_their_own(
    ranks: int, tokens: int, endpoint: str, replicates: bool
) -> None:
    heads = query_heads(ranks, tokens, endpoint=endpoint)
    assert heads == [HQ] * ranks if replicates else sum(heads) == HQ


def test_what_ranks_are_sent_alike_is_made_once() -> None:
    layer = LayerAttention(query_heads=HQ, kv_heads=HKV, key_dim=D)
    sequence = Sequence(1, "s", Model(1, "m", ModelDescription((layer,), CacheFormat.BF16)))
    topology = Topology(1, Phase.READY, "", ClusterShape(4, 2, 1, 64, Exchange.ALL_TO_ALL), 1000, (None,) * 4, 17)
    q, k, v = (np.zeros((1, heads, D), np.uint16) for heads in (HQ, HKV, HKV))
    step = contents(0, [Entry(sequence, 7, 1)], q, k, v)
    made = [(fields, payload) for _, fields, payload in step.frames(topology, [1], 60)]
    assert made[0][0] is made[1][0]
    assert made[0][1] is made[1][1]
    assert made[1][1] is not made[2][1]
    assert made[2][1] is made[3][1]


def test_nothing_more_is_sent_where_nothing_would_be_exchanged() -> None:
    assert query_heads(1, 1) == [HQ]
    assert query_heads(2, 1, position=0) == [HQ // 2] * 2


def test_what_was_asked_for_is_done() -> None:
    assert query_heads(2, 1, mode=QueryMode.GATHER) == [HQ // 2] * 2
    assert query_heads(2, 100, mode=QueryMode.REPLICATE) == [HQ] * 2
