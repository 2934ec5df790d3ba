# SPDX-License-Identifier: Apache-2.0

"""The attention of each layer."""

from __future__ import annotations

import math
from typing import Any

from dcp_attention.huggingface.fields import Fields
from dcp_attention.huggingface.windows import LATENT, windows
from dcp_attention.model import HEADS_MAX, KEY_DIMS, LAYERS_MAX, LayerAttention


def layers_of(fields: Fields) -> tuple[LayerAttention, ...]:
    """The layers of a family that is served."""
    names = ("n_layer", "n_head") if fields.family == "gpt_bigcode" else ("num_hidden_layers", "num_attention_heads")
    count: int = fields.required(
        fields.integer(names[0], range(1, LAYERS_MAX + 1)), names[0], "give the number of layers"
    )
    heads: int = fields.required(
        fields.integer(names[1], range(1, HEADS_MAX + 1)), names[1], "give the number of query heads"
    )
    shape = _latent_shape(fields) if fields.family in LATENT else _shape(fields, heads)
    softcap = fields.number("attn_logit_softcapping") if fields.family == "gemma2" else None
    return tuple(
        LayerAttention(query_heads=heads, softcap=softcap, window=window, has_sinks=fields.family == "gpt_oss", **shape)
        for window in windows(fields, count)
    )


def _shape(fields: Fields, heads: int) -> dict[str, Any]:
    dim = _head_dim(fields, heads)
    return {"kv_heads": _kv_heads(fields, heads), "key_dim": dim, "value_dim": dim, "scale": _scale(fields, dim)}


def _head_dim(fields: Fields, heads: int) -> int:
    # Neither of the two reads a `head_dim`.
    is_derived = fields.family in ("falcon", "gpt_bigcode")
    dim = None if is_derived else fields.integer("head_dim", KEY_DIMS)
    if dim is not None:
        return dim
    name = "n_embd" if fields.family == "gpt_bigcode" else "hidden_size"
    size: int = fields.required(
        fields.integer(name, range(1, 1 << 20)), name, "without `head_dim`, this value gives the head dimension"
    )
    if size % heads:
        raise fields.error(name, f"is {size}, which {heads} query heads do not divide; give `head_dim`.")
    return size // heads


def _kv_heads(fields: Fields, heads: int) -> int:
    limits = range(1, HEADS_MAX + 1)
    is_multi_query = fields.flag("multi_query") is not False
    if fields.family == "gpt_bigcode":
        return 1 if is_multi_query else heads
    if fields.family == "falcon":
        if is_multi_query and not fields.flag("new_decoder_architecture"):
            return 1
        return fields.integer("num_kv_heads", limits) or heads
    return fields.integer("num_key_value_heads", limits) or heads


def _scale(fields: Fields, dim: int) -> float:
    if fields.family in ("gemma2", "gemma3_text"):
        scalar = fields.number("query_pre_attn_scalar")
        if scalar is None or scalar <= 0:
            raise fields.error("query_pre_attn_scalar", "is not a positive number; correct it.")
        return 1 / math.sqrt(scalar)
    if fields.family == "gpt_bigcode" and fields.flag("scale_attn_weights") is False:
        return 1
    return 1 / math.sqrt(dim)


def _latent_shape(fields: Fields) -> dict[str, Any]:
    """DeepSeek's latent attention in its absorbed form: one KV head, whose key is the latent and the rotated
    dimensions, and whose value is the latent. The client multiplies queries by W_UK before, and outputs by W_UV after.
    """

    def dim(name: str) -> int:
        value: int = fields.required(fields.integer(name, range(1, 1 << 20)), name, "latent attention needs it")
        return value

    latent, rotated = dim("kv_lora_rank"), dim("qk_rope_head_dim")
    # Scores are those of the heads before absorption, and so is their scale.
    mscale = _mscale(fields)
    return {
        "kv_heads": 1,
        "key_dim": latent + rotated,
        "value_dim": latent,
        "leading_values": True,
        "scale": mscale * mscale / math.sqrt(dim("qk_nope_head_dim") + rotated),
    }


def _mscale(fields: Fields) -> float:
    """The factor by which YaRN multiplies queries and keys in all of their dimensions."""
    # `rope_scaling` and `type` before transformers 5, which takes the old key where a file has both.
    rope = fields.fields("rope_scaling") or fields.fields("rope_parameters")
    if rope is None:
        return 1
    kind = rope.text("rope_type") or rope.text("type") or "default"
    all_dim = rope.number("mscale_all_dim")
    if kind == "default" or not all_dim:
        return 1
    factor: float = rope.required(rope.number("factor"), "factor", "a scaled rotary embedding needs it")
    return 0.1 * all_dim * math.log(factor) + 1 if factor > 1 else 1
