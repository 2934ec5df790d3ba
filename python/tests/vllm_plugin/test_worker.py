# SPDX-License-Identifier: Apache-2.0

"""The half beside the model, with a cluster and without a vLLM."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from dcp_support import LocalCluster

from dcp_attention import CacheFormat, Cluster, LayerAttention, ModelDescription, PositionMismatch
from dcp_attention.vllm.plan import Admission, Plan, Share
from dcp_attention.vllm.worker import WorkerSide


def test_a_failed_step_is_not_committed(cluster_of: Callable[[int], LocalCluster]) -> None:
    layer = LayerAttention(query_heads=2, kv_heads=2, key_dim=16, value_dim=16, scale=0.25)
    with Cluster.connect(cluster_of(2).endpoint) as cluster:
        model = cluster.register_model("two", ModelDescription((layer, layer), CacheFormat.F32))
        sequence = cluster.open("a", model)
        worker = WorkerSide(cluster, ["first", "second"])
        tokens = np.ones((3, 2, 16), np.float32)

        worker.begin(Plan(admitted=[Admission("a", 7, sequence, 0)], shares=[Share("a", 0, [1, 2, 3])]))
        worker.step("first", worker.entries([7], [0], [3]), tokens, tokens, tokens)
        with pytest.raises(PositionMismatch):
            worker.step("second", worker.entries([7], [1], [3]), tokens, tokens, tokens)
        worker.commit()  # vLLM calls it while the error is on its way
        assert cluster.status(sequence).committed == 0

        cluster.cut(sequence, 0)
        worker.begin(Plan(shares=[Share("a", 0, [1, 2, 3])]))
        for layer_name in ("first", "second"):
            worker.step(layer_name, worker.entries([7], [0], [3]), tokens, tokens, tokens)
        worker.commit()
        assert cluster.status(sequence).committed == 3
