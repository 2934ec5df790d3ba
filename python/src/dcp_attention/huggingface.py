"""A model's ``config.json``, as Hugging Face transformers writes it and applies it.

What a key means is its family's: the same ``sliding_window`` is every layer's in one, some layers' in another, and
nothing in a third. So families are known by name, and one that is not known is refused rather than guessed at.
Settings that are missing are what the family's class has in transformers 5.24; null is none.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dcp_attention.errors import InvalidModel
from dcp_attention.model import HEADS_MAX, KEY_DIMS, LAYERS_MAX, WINDOW_MAX, DType, LayerAttention, ModelDescription

_LATENT = ("deepseek_v2", "deepseek_v3")
FAMILIES = (
    *_LATENT,
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
    ): "most of its layers attend within chunks of positions (chunked-local attention), which is no window",
    ("bloom", "mpt"): "it adds a bias to every score that grows with the distance (ALiBi)",
    ("mamba", "mamba2", "falcon_mamba", "rwkv"): "it keeps a state of one size instead of keys and values",
    (
        "bamba",
        "jamba",
        "nemotron_h",
        "qwen3_next",
        "recurrent_gemma",
        "zamba2",
    ): "some of its layers use linear attention or a recurrence, whose state is no cache of keys and values",
}

_MISSING: dict[tuple[str, str], float] = {
    ("gemma3_text", "num_hidden_layers"): 26,
    ("gemma3_text", "num_attention_heads"): 8,
    ("gemma2", "head_dim"): 256,
    ("gemma3_text", "head_dim"): 256,
    ("gemma2", "attn_logit_softcapping"): 50,
    ("gemma2", "query_pre_attn_scalar"): 256,
    ("gemma3_text", "query_pre_attn_scalar"): 256,
    ("glm4", "head_dim"): 128,
    ("qwen3", "head_dim"): 128,
    ("gpt_oss", "head_dim"): 64,
    ("qwen2", "num_key_value_heads"): 32,
    ("qwen3", "num_key_value_heads"): 32,
    ("gpt_oss", "num_key_value_heads"): 8,
    ("mistral", "num_key_value_heads"): 8,
    ("glm4", "num_key_value_heads"): 2,
    ("gemma2", "num_key_value_heads"): 4,
    ("gemma3_text", "num_key_value_heads"): 4,
    ("qwen3_moe", "num_key_value_heads"): 4,
    ("smollm3", "num_key_value_heads"): 4,
    ("gpt_oss", "sliding_window"): 128,
    **{
        (family, "sliding_window"): 4096
        for family in ("gemma2", "gemma3_text", "mistral", "olmo3", "qwen2", "qwen3", "qwen3_moe", "smollm3")
    },
    ("qwen2", "max_window_layers"): 28,
    ("qwen3", "max_window_layers"): 28,
}

_WEIGHTS = {"bfloat16": DType.BF16, "float16": DType.F16, "float32": DType.F32}


class Fields:
    """The keys of a configuration, or of a part of it, taken by their names; ``None`` for a key that is missing or
    null.
    """

    def __init__(self, values: Mapping[str, Any], file: str, path: str = "") -> None:
        self._values = values
        self._file = file
        self._path = path
        self.family = ""

    def error(self, name: str, message: str) -> InvalidModel:
        """An error about a key."""
        return InvalidModel(f"{self._file}: `{self._path}{name}` {message}")

    def has(self, name: str) -> bool:
        """Whether the key is there, null or not."""
        return name in self._values

    def _value(self, name: str) -> Any:
        return self._values[name] if name in self._values else _MISSING.get((self.family, name))

    def integer(self, name: str, limits: range) -> int | None:
        """A whole number within limits."""
        value = self._value(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or value not in limits:
            raise self.error(
                name, f"is `{value}`, not a whole number in {limits.start}...{limits.stop - 1}; correct it."
            )
        return value

    def number(self, name: str) -> float | None:
        """A finite number."""
        value = self._value(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise self.error(name, f"is `{value}`, not a finite number; correct it.")
        return float(value)

    def flag(self, name: str) -> bool | None:
        """True or false."""
        value = self._values.get(name)
        if value is not None and not isinstance(value, bool):
            raise self.error(name, f"is `{value}`, not true or false; correct it.")
        return value

    def text(self, name: str) -> str | None:
        """A text; a dtype of torch by its name."""
        value = self._values.get(name)
        return None if value is None else str(value).removeprefix("torch.")

    def items(self, name: str) -> list[Any] | None:
        """A list."""
        value = self._values.get(name)
        if value is not None and not isinstance(value, (list, tuple)):
            raise self.error(name, f"is `{value}`, not a list; correct it.")
        return None if value is None else list(value)

    def fields(self, name: str) -> Fields | None:
        """A mapping."""
        value = self._values.get(name)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise self.error(name, "is not a mapping of keys to values; correct it.")
        return Fields(value, self._file, f"{self._path}{name}.")

    def required(self, value: Any, name: str, remedy: str) -> Any:
        """A value that must be there."""
        if value is None:
            raise self.error(name, f"is missing; {remedy}.")
        return value


def describe(
    config: Any, *, kv_dtype: DType | None, sinks: Mapping[int, Sequence[float]], revision: str | None
) -> ModelDescription:
    """The description of a configuration; see `ModelDescription.from_transformers`."""
    root = _root(config)
    fields = _language_model(root)
    _refuse_settings(fields)
    layers = _layers(fields)
    missing = [index for index, layer in enumerate(layers) if layer.has_sinks and index not in sinks]
    if missing:
        raise InvalidModel(
            f"Layer {missing[0]} of `{fields.family}` has a sink for each query head, whose logits are weights that a "
            "configuration does not hold; give them with `sinks` (model.layers[i].self_attn.sinks)."
        )
    logits = tuple(tuple(sinks[index]) if layer.has_sinks else () for index, layer in enumerate(layers))
    return ModelDescription(layers, kv_dtype or _weights(fields, root) or DType.BF16, logits, revision)


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
            f"is `{kind}`, which is not known; known are {', '.join(FAMILIES)} and gemma3. If its attention is made of "
            "the "
            "same parts, describe it with ModelDescription and LayerAttention.",
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


def _layers(fields: Fields) -> tuple[LayerAttention, ...]:
    names = ("n_layer", "n_head") if fields.family == "gpt_bigcode" else ("num_hidden_layers", "num_attention_heads")
    count: int = fields.required(
        fields.integer(names[0], range(1, LAYERS_MAX + 1)), names[0], "give the number of layers"
    )
    heads: int = fields.required(
        fields.integer(names[1], range(1, HEADS_MAX + 1)), names[1], "give the number of query heads"
    )
    shape = _latent_shape(fields) if fields.family in _LATENT else _shape(fields, heads)
    softcap = fields.number("attn_logit_softcapping") if fields.family == "gemma2" else None
    return tuple(
        LayerAttention(query_heads=heads, softcap=softcap, window=window, has_sinks=fields.family == "gpt_oss", **shape)
        for window in _windows(fields, count)
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
        fields.integer(name, range(1, 1 << 20)), name, "it is what the heads divide where `head_dim` is missing"
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
    """What YaRN multiplies queries and keys by, in all of their dimensions."""
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


def _windows(fields: Fields, layers: int) -> list[int | None]:
    """For each layer its window. Transformers' masks let the query at p see p - window + 1 ... p."""
    family = fields.family
    window = fields.integer("sliding_window", range(1, WINDOW_MAX + 1)) if family not in _UNWINDOWED else None
    if family in ("qwen2", "qwen3", "qwen3_moe", "smollm3") and not fields.flag("use_sliding_window"):
        window = None
    if family in ("mistral", "phi3", "qwen3_moe", *_UNWINDOWED):
        return [window] * layers
    return _listed_windows(fields, layers, window, _windowed(fields, layers, window))


_UNWINDOWED = (*_LATENT, "falcon", "glm4", "gpt_bigcode", "llama")
"""Transformers reads neither ``sliding_window`` nor ``layer_types`` of these."""


def _windowed(fields: Fields, layers: int, window: int | None) -> Callable[[int], bool]:
    """Which layers have a window where the configuration does not list ``layer_types``."""
    family = fields.family
    if family in ("qwen2", "qwen3"):
        first = fields.integer("max_window_layers", range(1 << 20)) or 0
        return lambda layer: window is not None and layer >= first
    if family == "smollm3":
        interval = fields.integer("no_rope_layer_interval", range(1, LAYERS_MAX + 1)) or 4
        # 0 for a layer without a rotary embedding, in spite of the key's name.
        ropes = fields.items("no_rope_layers")
        if ropes is not None and len(ropes) < layers:
            raise fields.error(
                "no_rope_layers", f"has {len(ropes)} items for {layers} layers; give one for each layer."
            )
        return lambda layer: (
            window is not None and ((layer + 1) % interval == 0 if ropes is None else ropes[layer] == 0)
        )
    # The last layer of each period sees all tokens. Releases that write `_sliding_window_pattern` write `layer_types`,
    # too.
    period = {"gemma2": 2, "gpt_oss": 2, "olmo3": 4}.get(family)
    if period is None:
        period = fields.integer("sliding_window_pattern", range(1, LAYERS_MAX + 1)) or 6
    return lambda layer: (layer + 1) % period != 0


def _listed_windows(
    fields: Fields, layers: int, window: int | None, is_windowed: Callable[[int], bool]
) -> list[int | None]:
    types = fields.items("layer_types")
    if types is None:
        types = ["sliding_attention" if is_windowed(layer) else "full_attention" for layer in range(layers)]
    if len(types) != layers:
        raise fields.error("layer_types", f"has {len(types)} items for {layers} layers; give one for each layer.")
    windows: list[int | None] = []
    for layer, kind in enumerate(types):
        if kind == "full_attention":
            windows.append(None)
        elif kind != "sliding_attention":
            raise fields.error(
                "layer_types",
                f"has `{kind}` at layer {layer}, which cannot be served; a layer sees all tokens (full_attention) or a "
                "window "
                "(sliding_attention).",
            )
        elif window is None:
            raise fields.error(
                "sliding_window",
                f"is none or switched off (use_sliding_window), and layer {layer} has a window (layer_types, or the "
                "family's "
                "order); correct one of them.",
            )
        else:
            windows.append(window)
    return windows


def _weights(fields: Fields, root: Fields) -> DType | None:
    """``dtype``, or ``torch_dtype`` before transformers 5; of quantized weights, and of those that are not said,
    none.
    """
    for part in (fields, root):
        for name in ("dtype", "torch_dtype"):
            found = _WEIGHTS.get(part.text(name) or "")
            if found is not None:
                return found
    return None
