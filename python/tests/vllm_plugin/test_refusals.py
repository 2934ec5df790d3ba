# SPDX-License-Identifier: Apache-2.0

"""What cannot be served is refused before anything is computed, with what to change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from dcp_support import LocalCluster
from transformers import AutoConfig
from vllm.config import CUDAGraphMode
from vllm.v1.attention.backend import AttentionType
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec, SlidingWindowSpec
from vllm_plugin.support import TRANSFER, configured

from dcp_attention.vllm import TRIED, Unsupported
from dcp_attention.vllm.backend import DCPAttentionBackend, DCPAttentionImpl
from dcp_attention.vllm.options import Options
from dcp_attention.vllm.refusals import refuse_groups, refuse_unsupported


def test_a_plain_configuration_is_taken(llama: Path) -> None:
    refuse_unsupported(configured(llama))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"tensor_parallel_size": 2}, "--tensor-parallel-size is 2 and has to be 1"),
        ({"pipeline_parallel_size": 2}, "--pipeline-parallel-size is 2 and has to be 1"),
        ({"enable_prefix_caching": True}, "add --no-enable-prefix-caching"),
        ({"speculative_config": {"method": "ngram", "num_speculative_tokens": 2}}, "Speculative decoding"),
        ({"enable_lora": True}, "remove --enable-lora"),
        ({"kv_transfer_config": TRANSFER | {"kv_role": "kv_producer"}}, 'has to be "kv_both"'),
        ({"kv_cache_dtype": "fp8"}, "--kv-cache-dtype is fp8"),
        ({"runner": "pooling"}, "The runner is pooling"),
        ({"enable_prompt_embeds": True}, "leave --enable-prompt-embeds out"),
    ],
)
def test_a_configuration_is_refused(options: dict[str, Any], reason: str, llama: Path) -> None:
    with pytest.raises(Unsupported, match=reason):
        refuse_unsupported(configured(llama, **options))


def test_what_the_cpu_platform_turns_off_by_itself_is_refused_elsewhere(llama: Path) -> None:
    config = configured(llama)
    config.scheduler_config.async_scheduling = True
    config.compilation_config.cudagraph_mode = CUDAGraphMode.FULL_AND_PIECEWISE
    with pytest.raises(Unsupported, match=r"add --no-async-scheduling.*CUDA graphs \(FULL_AND_PIECEWISE\)"):
        refuse_unsupported(config)


def test_latent_attention_is_refused(tmp_path: Path) -> None:
    small = {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 4}
    AutoConfig.for_model("deepseek_v3", **small, architectures=["DeepseekV3ForCausalLM"]).save_pretrained(tmp_path)
    with pytest.raises(Unsupported, match=r"latent attention \(MLA\)"):
        refuse_unsupported(configured(tmp_path))


@pytest.mark.parametrize(
    ("attention", "reason"),
    [
        ({"alibi_slopes": [0.5, 0.25]}, "ALiBi"),
        ({"attn_type": AttentionType.ENCODER_ONLY}, "encoder_only"),
        ({"attn_type": AttentionType.ENCODER_DECODER}, "encoder_decoder"),
        ({"kv_sharing_target_layer_name": "model.layers.0.self_attn.attn"}, "keys and values of model.layers.0"),
        ({"chunk_lookback": 1}, "chunk_lookback"),
    ],
)
def test_an_attention_is_refused(attention: dict[str, Any], reason: str) -> None:
    arguments = {"num_heads": 2, "head_size": 32, "scale": 0.1, "num_kv_heads": 2} | attention
    with pytest.raises(Unsupported, match=reason):
        # vLLM's own __new__ asks for its process groups.
        DCPAttentionImpl.__init__(object.__new__(DCPAttentionImpl), **arguments)


def test_a_cache_in_which_first_blocks_do_not_tell_requests_apart_is_refused() -> None:
    shape: dict[str, Any] = {"block_size": 16, "num_kv_heads": 2, "head_size": 32, "dtype": torch.float32}
    full, window = FullAttentionSpec(**shape), SlidingWindowSpec(**shape, sliding_window=100)
    customized = DCPAttentionBackend.customize_spec(window)
    assert customized == DCPAttentionBackend.customize_spec(full)
    refuse_groups(KVCacheConfig(8, [], [KVCacheGroupSpec(["0", "1"], customized)]))
    for specs in ([window], [full, full], []):
        groups = [KVCacheGroupSpec([str(layer)], spec) for layer, spec in enumerate(specs)]
        with pytest.raises(Unsupported, match=f"in {len(specs)} groups of .*, and DCPConnector needs one"):
            refuse_groups(KVCacheConfig(8, [], groups))


def test_another_version_is_refused_with_both_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vllm.__version__", "0.31.7+cpu")
    with pytest.raises(Unsupported, match=rf"tried with vLLM {TRIED[0]}, and this is vLLM 0\.31\.7"):
        from dcp_attention.vllm import DCPConnector  # noqa: F401


def test_an_unknown_option_is_refused(llama: Path) -> None:
    config = configured(llama, kv_transfer_config=TRANSFER | {"kv_connector_extra_config": {"endpont": "unix:x"}})
    with pytest.raises(Unsupported, match=r"`endpont` .* is no option of DCPConnector; it has endpoint, model"):
        Options.of(config)


def test_a_scope_without_room_for_a_salt_is_refused(llama: Path) -> None:
    for scope, is_taken in (("s" * 190, True), ("s" * 191, False), ("\N{GREEK SMALL LETTER ALPHA}" * 96, False)):
        config = configured(llama, kv_transfer_config=TRANSFER | {"kv_connector_extra_config": {"scope": scope}})
        if is_taken:
            assert len(Options.of(config).request_scope("salt")) == 255
        else:
            with pytest.raises(Unsupported, match=rf"has {len(scope.encode())} bytes, and 190 at most"):
                Options.of(config)


def test_an_engine_with_prefix_caching_does_not_start(
    llama: Path, start: Callable[..., Any], cluster_of: Callable[[int], LocalCluster]
) -> None:
    options = {"enable_prefix_caching": True}
    engine = start({"model": str(llama), "endpoint": cluster_of(2).endpoint, "runs": [], "options": options})
    with pytest.raises(AssertionError, match="add --no-enable-prefix-caching"):
        list(engine.lines())
