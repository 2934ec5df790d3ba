# SPDX-License-Identifier: Apache-2.0

"""Which layers have a window, as transformers decides it."""

from __future__ import annotations

from collections.abc import Callable

from dcp_attention.huggingface.fields import Fields
from dcp_attention.model import LAYERS_MAX, WINDOW_MAX

LATENT = ("deepseek_v2", "deepseek_v3")


def windows(fields: Fields, layers: int) -> list[int | None]:
    """For each layer its window. Transformers' masks let the query at p see p - window + 1 ... p."""
    family = fields.family
    window = fields.integer("sliding_window", range(1, WINDOW_MAX + 1)) if family not in _UNWINDOWED else None
    if family in ("qwen2", "qwen3", "qwen3_moe", "smollm3") and not fields.flag("use_sliding_window"):
        window = None
    if family in ("mistral", "phi3", "qwen3_moe", *_UNWINDOWED):
        return [window] * layers
    return _listed_windows(fields, layers, window, _windowed(fields, layers, window))


_UNWINDOWED = (*LATENT, "falcon", "glm4", "gpt_bigcode", "llama")
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
                "window (sliding_attention).",
            )
        elif window is None:
            raise fields.error(
                "sliding_window",
                f"is none or switched off (use_sliding_window), and layer {layer} has a window (layer_types, or the "
                "family's order); correct one of them.",
            )
        else:
            windows.append(window)
    return windows
