# SPDX-License-Identifier: Apache-2.0

"""Who computes other keys and values has another revision, and finds nobody else's prefixes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dcp_support import LocalCluster
from safetensors.torch import load_file, save_file
from transformers import Phi3Config
from vllm_plugin.support import TRANSFER, configured

from dcp_attention.vllm import Unsupported
from dcp_attention.vllm.options import Options

YARN = {
    "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 1024,
    }
}
GIVEN = {"kv_transfer_config": TRANSFER | {"kv_connector_extra_config": {"revision": "mine"}}}


def revision(model: Path, **options: Any) -> str:
    config = configured(model, **options)
    return Options.of(config).model_revision(config)


def test_copies_have_one_revision(llama: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(llama, tmp_path / "copy")
    assert revision(llama).startswith("sample:")
    assert revision(copy, max_model_len=512, seed=7) == revision(llama)


@pytest.mark.parametrize("given", [{}, GIVEN])
@pytest.mark.parametrize("options", [{"hf_overrides": YARN}, {"dtype": "float16"}, {"load_format": "dummy"}])
def test_settings_are_part_of_it(options: dict[str, Any], given: dict[str, Any], llama: Path) -> None:
    assert revision(llama, **given, **options) != revision(llama, **given)


def test_weights_are_part_of_it(llama: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = shutil.copytree(llama, tmp_path / "other" / llama.name)
    weights = load_file(other / "model.safetensors")
    weights["model.norm.weight"] *= 1.5  # the smallest
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    assert revision(other) != revision(llama)
    assert revision(other, **GIVEN) == revision(llama, **GIVEN)


def test_a_length_that_chooses_a_scaling_is_part_of_it(tmp_path: Path) -> None:
    factors = {"short_factor": [1.0] * 16, "long_factor": [4.0] * 16}
    scaling: dict[str, Any] = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "original_max_position_embeddings": 1024,
        **factors,
    }
    small: dict[str, Any] = {
        "num_hidden_layers": 1,
        "hidden_size": 128,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
    }
    Phi3Config(**small, rope_parameters=scaling, original_max_position_embeddings=1024).save_pretrained(tmp_path)
    shortest, short, long = (revision(tmp_path, **GIVEN, max_model_len=length) for length in (512, 1024, 2048))
    assert shortest == short != long


def test_weights_that_are_not_known_are_refused(llama: Path, tmp_path: Path) -> None:
    shutil.copy(llama / "config.json", tmp_path)
    with pytest.raises(Unsupported, match="does not know which weights .* Set `revision`"):
        revision(tmp_path)


def test_other_settings_under_one_name_do_not_start(
    llama: Path, prompts: list[list[int]], serve: Callable[..., Any], cluster_of: Callable[[int], LocalCluster]
) -> None:
    runs = [{"prompts": [prompts[3]], "max_tokens": 4}]
    endpoint, extra = cluster_of(2).endpoint, {"revision": "mine"}
    serve(llama, runs, endpoint, extra=extra)
    with pytest.raises(AssertionError, match=r"ModelMismatch.*revision"):
        serve(llama, runs, endpoint, extra=extra, options={"hf_overrides": YARN})
    served = serve(llama, runs, endpoint, extra=extra)
    assert served.runs[0][0]["cached"] == len(prompts[3]) - 1
