# SPDX-License-Identifier: Apache-2.0

"""Small random models of many of transformers' architectures, with every kind of layer that their families have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

# What configurations call their sizes. Dropout is left as it is: models are evaluated.
_SIZES: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 4096,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}
_GPT2_SIZES: dict[str, Any] = {
    "vocab_size": 512,
    "n_embd": 64,
    "n_layer": 4,
    "n_head": 8,
    "n_positions": 4096,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_EXPERTS: dict[str, Any] = {"moe_intermediate_size": 32, "num_experts_per_tok": 2}
_ALL_HEADS: dict[str, Any] = {"num_key_value_heads": 8}
_LATENT: dict[str, Any] = {
    **_EXPERTS,
    **_ALL_HEADS,
    "head_dim": 8,
    "kv_lora_rank": 32,
    "q_lora_rank": 48,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "n_group": 2,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
_ALTERNATE = ["sliding_attention", "full_attention"] * 2

# By the name of the architecture's configuration: what it has beside `_SIZES`, or what it has at all.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 24},
    "mixtral": {"num_local_experts": 4, "sliding_window": None},
    "qwen2": {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 2},
    "qwen2_moe": {**_EXPERTS, "shared_expert_intermediate_size": 32, "num_experts": 4},
    "qwen3": {},
    "qwen3_moe": {**_EXPERTS, "num_experts": 4},
    "gemma": {},
    "gemma2": {"sliding_window": 24, "query_pre_attn_scalar": 16, "layer_types": _ALTERNATE},
    "gemma3_text": {"sliding_window": 24, "query_pre_attn_scalar": 16, "layer_types": _ALTERNATE},
    "gemma3n_text": {
        "sliding_window": 24,
        "num_hidden_layers": 6,
        "num_kv_shared_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"] * 3,
        "vocab_size_per_layer_input": 512,
        "hidden_size_per_layer_input": 16,
        "activation_sparsity_pattern": None,
    },
    "gemma4_text": {
        "sliding_window": 24,
        "global_head_dim": 32,
        "num_hidden_layers": 6,
        "num_kv_shared_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"] * 3,
        "vocab_size_per_layer_input": 512,
        "hidden_size_per_layer_input": 16,
    },
    "gpt_oss": {"sliding_window": 24, "num_local_experts": 4, "num_experts_per_tok": 2, "layer_types": _ALTERNATE},
    "deepseek_v2": _LATENT,
    "deepseek_v3": _LATENT,
    "phi": _ALL_HEADS,
    "phi3": {"sliding_window": 24},
    "gpt2": _GPT2_SIZES,
    "gpt_bigcode": _GPT2_SIZES,
    "gpt_neox": {},
    "opt": {"ffn_dim": 128, "word_embed_proj_dim": 64},
    "olmo": {},
    "olmo2": {},
    "olmo3": {"sliding_window": 24},
    "cohere": {},
    "cohere2": {"sliding_window": 24},
    "granite": {"attention_multiplier": 0.2},
    "starcoder2": {"sliding_window": 24},
    "stablelm": {"num_attention_heads": 4},
    "smollm3": {},
    "glm": {},
    "glm4": {},
    "glm4_moe": {**_EXPERTS, "n_routed_experts": 4, "first_k_dense_replace": 1},
    "nemotron": {},
    "minimax_m2": {"num_local_experts": 4, "num_experts_per_tok": 2, "rotary_dim": 8},
    "helium": {"head_dim": 8},
    "exaone4": {"sliding_window": 24},
    "ernie4_5": {},
    "seed_oss": {},
    "arcee": {},
    "gptj": _GPT2_SIZES | {"rotary_dim": 8},
    # Those that are refused, each for a reason of its own.
    "llama4_text": {"intermediate_size_mlp": 128, "attention_chunk_size": 24, "num_local_experts": 2},
    "qwen3_next": {
        **_EXPERTS,
        "num_experts": 4,
        "shared_expert_intermediate_size": 32,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
    },
    "mamba": {"state_size": 8},
    "falcon": {"hidden_size": 64, "num_attention_heads": 8, "num_hidden_layers": 4, "vocab_size": 512},
    "bloom": {"hidden_size": 64, "n_head": 8, "n_layer": 4, "vocab_size": 512},
    "mpt": {"d_model": 64, "n_heads": 8, "n_layers": 4, "vocab_size": 512},
}

REFUSED = ("llama4_text", "qwen3_next", "mamba", "falcon", "bloom", "mpt")


def configuration(architecture: str, **changes: Any) -> PretrainedConfig:
    """The small configuration of an architecture, with changes."""
    from transformers import AutoConfig

    sizes = ARCHITECTURES[architecture]
    taken = sizes if {"n_embd", "d_model", "hidden_size"} & sizes.keys() else _SIZES | sizes
    return AutoConfig.for_model(architecture, **taken | changes)


def random_model(config: PretrainedConfig, *, seed: int, dtype: torch.dtype, attention: str | None) -> PreTrainedModel:
    """A model of random weights.

    Weights are drawn wider than for training, so that attention is far from uniform and a wrong window or scale shows.
    """
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight.dim() > 1:
                weight.copy_(noise * (1.5 / weight.shape[-1] ** 0.5))
            elif "sink" in name:
                weight.copy_(noise * 2)
    return model
