# SPDX-License-Identifier: Apache-2.0

"""The model's revision in the cluster: equal if two vLLMs compute equal keys and values from equal tokens."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dcp_attention.vllm.versions import Unsupported
from dcp_attention.vllm.weights import sample_of

# Keys of configurations that keys and values do not depend on.
_IGNORED = ("_name_or_path", "_commit_hash", "transformers_version", "_attn_implementation", "use_cache")


def model_revision(vllm_config: Any, given: str | None) -> str:
    """What identifies the weights, and after a ``+`` a digest of all settings that vLLM computes with: the same weights
    under other ``--hf-overrides``, such as another scaling of positions, are another model.

    Args:
        vllm_config: vLLM's.
        given: What identifies the weights; ``None`` is the commit of the hub's that they are from, else a digest of a
            sample of the files in the model's directory.

    Raises:
        Unsupported: Nothing is known of the weights.
    """
    model = vllm_config.model_config
    # With a configuration from elsewhere the commit is not the weights'.
    commit = None if model.hf_config_path else getattr(model.hf_config, "_commit_hash", None)
    weights = given or commit or sample_of(Path(model.model))
    if weights is None:
        raise Unsupported(
            f"vLLM does not know which weights `{model.model}` has: they are from no commit of the hub's, and there "
            "are no files of weights in a directory of that name. Set `revision` in kv_connector_extra_config to what "
            "identifies them; servers with the same one find each other's prefixes."
        )
    return f"{weights}+{_settings(vllm_config)}"


def _settings(vllm_config: Any) -> str:
    model = vllm_config.model_config
    config = {key: value for key, value in model.hf_config.to_dict().items() if key not in _IGNORED}
    settings = {
        "config": config,
        "dtype": str(model.dtype),
        "quantization": [model.quantization, model.quantization_config],
        # Random weights instead of those in the files.
        "dummy": vllm_config.load_config.load_format == "dummy",
        "is_long": sorted(model.max_model_len > most for most in _longrope_lengths(config)),
    }
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=repr).encode()).hexdigest()[:32]


def _longrope_lengths(config: dict[str, Any]) -> list[int]:
    """The lengths beyond which positions are scaled, if it is LongRoPE that scales them: vLLM chooses one of its two
    scalings by ``--max-model-len``, for all tokens.
    """
    return list(_original_lengths(config)) if "longrope" in json.dumps(config, default=repr) else []


def _original_lengths(config: dict[str, Any]) -> Iterator[int]:
    for key, value in config.items():
        if key == "original_max_position_embeddings" and value is not None:
            yield int(value)
        elif isinstance(value, dict):
            yield from _original_lengths(value)
