# SPDX-License-Identifier: Apache-2.0

"""Checks of vLLM's configuration for unsupported settings, before anything is computed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, UniformTypeKVCacheSpecs

from dcp_attention.vllm.versions import Unsupported


def refuse_unsupported(vllm_config: Any) -> None:
    """Refuses a vLLM whose answers would be wrong, or were never compared.

    Raises:
        Unsupported: With everything that is in the way.
    """
    reasons = [*_parallel(vllm_config), *_cache(vllm_config), *_steps(vllm_config), *_model(vllm_config)]
    if reasons:
        raise Unsupported("DCPConnector cannot serve this vLLM: " + " ".join(reasons))


def refuse_groups(kv_cache_config: KVCacheConfig) -> None:
    """Refuses a vLLM whose requests the attention backend could not tell apart: it knows a request by the first block
    that it has of the only group, from its admission until it ends or is preempted.

    Raises:
        Unsupported: There are several groups of blocks, or their blocks are taken back while a request runs.
    """
    groups = kv_cache_config.kv_cache_groups
    specs = [
        spec
        for group in groups
        for spec in (
            group.kv_cache_spec.kv_cache_specs.values()
            if isinstance(group.kv_cache_spec, UniformTypeKVCacheSpecs)
            else [group.kv_cache_spec]
        )
    ]
    if len(groups) != 1 or not all(isinstance(spec, FullAttentionSpec) for spec in specs):
        kinds = ", ".join(sorted({type(spec).__name__ for spec in specs}))
        raise Unsupported(
            f"vLLM keeps the model's blocks in {len(groups)} groups of {kinds or 'nothing'}, and DCPConnector needs "
            "one of FullAttentionSpec: it knows requests by their first blocks. Serve the model with transformers."
        )


def _parallel(vllm_config: Any) -> Iterator[str]:
    parallel = vllm_config.parallel_config
    for name, size in (
        ("tensor", parallel.tensor_parallel_size),
        ("pipeline", parallel.pipeline_parallel_size),
        ("data", parallel.data_parallel_size),
        ("decode-context", parallel.decode_context_parallel_size),
        ("prefill-context", parallel.prefill_context_parallel_size),
    ):
        if size > 1:
            yield f"--{name}-parallel-size is {size} and has to be 1: one worker has a sequence; start more servers."
    if parallel.enable_dbo:
        yield "--enable-dbo halves batches between the layers of a step; leave it out."


def _cache(vllm_config: Any) -> Iterator[str]:
    cache, transfer = vllm_config.cache_config, vllm_config.kv_transfer_config
    if transfer.kv_role != "kv_both":
        yield f'kv_role is "{transfer.kv_role}" and has to be "kv_both".'
    if cache.enable_prefix_caching:
        yield "vLLM's own prefix caching is on, and its blocks hold nothing: add --no-enable-prefix-caching."
    dtype = str(vllm_config.model_config.dtype).removeprefix("torch.")
    if cache.cache_dtype not in ("auto", dtype):
        yield (
            f"--kv-cache-dtype is {cache.cache_dtype} and has to be auto: vLLM's own cache holds nothing. For 8 bits "
            "in the cluster set kv_format in kv_connector_extra_config to int8 or fp8."
        )


def _steps(vllm_config: Any) -> Iterator[str]:
    if vllm_config.speculative_config is not None:
        yield "Speculative decoding takes tokens back, which was not tried; leave --speculative-config out."
    if vllm_config.scheduler_config.async_scheduling:
        yield "Async scheduling starts a step before the last one's tokens are known; add --no-async-scheduling."
    mode = vllm_config.compilation_config.cudagraph_mode
    if mode is not None and mode.name != "NONE":
        yield f"CUDA graphs ({mode.name}) would replay the attention without asking the cluster; add --enforce-eager."


def _model(vllm_config: Any) -> Iterator[str]:
    model = vllm_config.model_config
    if model.runner_type != "generate":
        yield f"The runner is {model.runner_type}; only text generation has conversations to keep."
    if model.use_mla:
        yield "The model has latent attention (MLA), which vLLM has other backends for; serve it with transformers."
    if model.is_encoder_decoder:
        yield "The model has an encoder, whose attention is not causal."
    if model.is_multimodal_model:
        yield "The model takes images or sound, which token ids do not distinguish: prefix matches would be wrong."
    if model.has_inner_state or model.is_hybrid:
        yield "Some layers keep a recurrent state, which is no cache of keys and values."
    if model.attention_chunk_size is not None:
        yield f"Layers attend within chunks of {model.attention_chunk_size} tokens, which is not a window."
    if model.enable_prompt_embeds:
        yield "Prompts may be embeddings, which have no token ids to be found by; leave --enable-prompt-embeds out."
    if vllm_config.lora_config is not None:
        yield "Adapters change keys and values, but token ids do not distinguish them; remove --enable-lora."
