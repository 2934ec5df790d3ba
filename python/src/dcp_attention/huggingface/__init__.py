# SPDX-License-Identifier: Apache-2.0

"""A model's ``config.json``, as Hugging Face transformers writes it and applies it.

What a key means is its family's: the same ``sliding_window`` is every layer's in one, some layers' in another, and
nothing in a third. So families are known by name, and one that is not known is refused rather than guessed at.
Settings that are missing are what the family's class has in transformers 5.24; null is none.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from dcp_attention.errors import InvalidModel
from dcp_attention.huggingface.fields import Fields
from dcp_attention.huggingface.layers import layers_of
from dcp_attention.huggingface.windows import LATENT
from dcp_attention.model import CacheFormat, ModelDescription

FAMILIES = (
    *LATENT,
    "falcon",
    "gemma2",
    "gemma3_text",
    "glm4",
    "gpt_bigcode",
    "gpt_oss",
    "llama",
    "mistral",
    "olmo3",
    "phi3",
    "qwen2",
    "qwen3",
    "qwen3_moe",
    "smollm3",
)

_REFUSALS = {
    (
        "llama4",
        "llama4_text",
    ): "most of its layers attend within chunks of positions (chunked-local attention), which is not a window",
    ("bloom", "mpt"): "it adds a bias to every score that grows with the distance (ALiBi)",
    ("mamba", "mamba2", "falcon_mamba", "rwkv"): "it keeps a state of one size instead of keys and values",
    (
        "bamba",
        "jamba",
        "nemotron_h",
        "qwen3_next",
        "recurrent_gemma",
        "zamba2",
    ): "some of its layers use linear attention or a recurrence, whose state is not a cache of keys and values",
}

_WEIGHTS = {"bfloat16": CacheFormat.BF16, "float16": CacheFormat.F16, "float32": CacheFormat.F32}


def describe(
    config: Any, *, kv_format: CacheFormat | None, sinks: Mapping[int, Sequence[float]], revision: str | None
) -> ModelDescription:
    """The description of a configuration; see `ModelDescription.from_transformers`."""
    root = _root(config)
    fields = _language_model(root)
    _refuse_settings(fields)
    layers = layers_of(fields)
    missing = [index for index, layer in enumerate(layers) if layer.has_sinks and index not in sinks]
    if missing:
        raise InvalidModel(
            f"Layer {missing[0]} of `{fields.family}` has a sink for each query head, whose logits are weights that a "
            "configuration does not hold; give them with `sinks` (model.layers[i].self_attn.sinks)."
        )
    logits = tuple(tuple(sinks[index]) if layer.has_sinks else () for index, layer in enumerate(layers))
    return ModelDescription(layers, kv_format or _weights(fields, root) or CacheFormat.BF16, logits, revision)


def _root(config: Any) -> Fields:
    if isinstance(config, (str, os.PathLike)):
        path = os.fspath(config)
        try:
            with open(path, encoding="utf-8") as file:
                values = json.load(file)
        except (OSError, ValueError) as error:
            raise InvalidModel(
                f"{path} cannot be read as a config.json ({error}); name one of transformers."
            ) from error
    else:
        path = type(config).__name__ if not isinstance(config, Mapping) else "config"
        values = config if isinstance(config, Mapping) else config.to_dict()
    if not isinstance(values, Mapping):
        raise InvalidModel(f"{path} has no keys; give a config.json of Hugging Face transformers.")
    return Fields(values, path)


def _language_model(root: Fields) -> Fields:
    kind = root.required(root.text("model_type"), "model_type", "give a config.json of Hugging Face transformers")
    fields = root
    if kind == "gemma3":
        fields = root.required(root.fields("text_config"), "text_config", "give a whole config.json")
        # Nested configurations are written as differences, so that theirs may be left out.
        kind = fields.text("model_type") or "gemma3_text"
    if kind not in FAMILIES:
        for kinds, why in _REFUSALS.items():
            if kind in kinds:
                raise fields.error("model_type", f"is `{kind}`, which cannot be served: {why}.")
        raise fields.error(
            "model_type",
            f"is `{kind}`, which is not supported; supported types are {', '.join(FAMILIES)} and gemma3. "
            "If its attention is made of "
            "the same parts, describe it with ModelDescription and LayerAttention.",
        )
    fields.family = kind
    return fields


def _refuse_settings(fields: Fields) -> None:
    family = fields.family
    if family == "falcon" and fields.flag("alibi"):
        raise fields.error(
            "alibi",
            "is true, which cannot be served: it adds a bias to every score that grows with the distance (ALiBi).",
        )
    if family in ("gemma2", "gemma3_text") and fields.flag("use_bidirectional_attention"):
        raise fields.error(
            "use_bidirectional_attention", "is true, which cannot be served: its queries see tokens after their own."
        )
    cap = fields.number("attn_logit_softcapping") if family == "gemma3_text" else None
    if cap is not None:
        # Releases of transformers differ in whether they apply it.
        raise fields.error(
            "attn_logit_softcapping",
            f"is {cap}, which not all releases of transformers apply to this family; describe the model with "
            "ModelDescription and LayerAttention.",
        )


def _weights(fields: Fields, root: Fields) -> CacheFormat | None:
    """``dtype``, or ``torch_dtype`` before transformers 5; of quantized weights, and of those that are not said,
    none.
    """
    for part in (fields, root):
        for name in ("dtype", "torch_dtype"):
            found = _WEIGHTS.get(part.text(name) or "")
            if found is not None:
                return found
    return None
