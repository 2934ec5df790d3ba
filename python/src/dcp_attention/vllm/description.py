# SPDX-License-Identifier: Apache-2.0

"""The model's description for the cluster, read from the attention layers that vLLM built."""

from __future__ import annotations

from typing import Any

import torch
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase
from vllm.model_executor.models.utils import extract_layer_index

from dcp_attention import CacheFormat, LayerAttention, ModelDescription
from dcp_attention.vllm.backend import DCPAttentionImpl
from dcp_attention.vllm.versions import Unsupported


def attention_layers(vllm_config: Any) -> dict[str, Attention]:
    """The model's attention layers by their names, in their order.

    Raises:
        Unsupported: A layer is none that the cluster computes.
    """
    context = vllm_config.compilation_config.static_forward_context
    found = {name: layer for name, layer in context.items() if isinstance(layer, AttentionLayerBase)}
    for name, layer in found.items():
        if type(layer) is not Attention:
            raise Unsupported(f"Layer {name} is a {type(layer).__name__}, whose attention DCPConnector cannot serve.")
        if not isinstance(layer.impl, DCPAttentionImpl):
            raise Unsupported(
                f"Layer {name} computes its attention with {layer.attn_backend.get_name()}, beside the cluster; add "
                "--attention-backend CUSTOM."
            )
    return dict(sorted(found.items(), key=lambda item: extract_layer_index(item[0])))


def describe(
    layers: dict[str, Attention], dtype: torch.dtype, revision: str, kv_format: str | None
) -> ModelDescription:
    """The description of a model.

    Args:
        layers: Its attention layers, in their order, with their weights.
        dtype: What it computes in.
        revision: What identifies its weights and settings.
        kv_format: How the cluster keeps keys and values; ``None`` is the dtype.

    Raises:
        InvalidModel: The cluster has no such attention, or no such format for it.
    """
    return ModelDescription(
        tuple(_describe(layer.impl, layer.head_size_v) for layer in layers.values()),
        CacheFormat.named(kv_format or str(dtype)),
        sinks=tuple(
            () if layer.impl.sinks is None else tuple(layer.impl.sinks.float().tolist()) for layer in layers.values()
        ),
        revision=revision,
    )


def _describe(impl: DCPAttentionImpl, value_dim: int) -> LayerAttention:
    return LayerAttention(
        query_heads=impl.num_heads,
        kv_heads=impl.num_kv_heads,
        key_dim=impl.head_size,
        value_dim=value_dim,
        scale=impl.scale,
        softcap=impl.softcap,
        window=impl.window,
        has_sinks=impl.sinks is not None,
    )
