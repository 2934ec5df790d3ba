# SPDX-License-Identifier: Apache-2.0

"""Small random models on disk, vLLM in processes of its own, and real daemons."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import dcp_support
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 256
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 4096,
    "initializer_range": 0.2,
    "tie_word_embeddings": False,
}


@pytest.fixture(scope="session")
def prompts() -> list[list[int]]:
    """Prompts of 10 to 1,800 random tokens."""
    _, chance = dcp_support.seeded()
    return [chance.integers(VOCABULARY, size=count).tolist() for count in (10, 33, 128, 300, 901, 1800)]


@pytest.fixture
def cluster_of() -> Iterator[Callable[[int], dcp_support.LocalCluster]]:
    """Starts a cluster of so many ranks, which ends with the test."""
    with ExitStack() as clusters:
        yield lambda ranks: clusters.enter_context(dcp_support.cluster(ranks))


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _save(LlamaForCausalLM, LlamaConfig(**SHAPE), tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def windowed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of its layers see 100 tokens."""
    return _save(MistralForCausalLM, MistralConfig(**SHAPE, sliding_window=100), tmp_path_factory.mktemp("windowed"))


def _save(family: Any, config: Any, directory: Path) -> Path:
    torch.manual_seed(11)
    family(config).save_pretrained(directory)
    vocabulary = {"<unknown>": 0, "<end>": 1} | {f"w{i}": i for i in range(2, VOCABULARY)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unknown>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unknown>", eos_token="<end>").save_pretrained(directory)
    return directory


class Engine:
    """A vLLM that has been given a job."""

    def __init__(self, log: Path, job: dict[str, Any]) -> None:
        self.log = log
        environment = os.environ | {
            "HF_HUB_OFFLINE": "1",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_LOGGING_LEVEL": "INFO",
        }
        self.process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("engine.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("w"),
            text=True,
            env=environment,
            start_new_session=True,
        )
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(job))
        self.process.stdin.close()

    def lines(self) -> Iterator[dict[str, Any]]:
        """What happens, until it ends."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            yield json.loads(line)
        if self.process.wait() != 0:
            raise AssertionError(f"vLLM ended with {self.process.returncode}:\n{self.log.read_text()[-6000:]}")

    def kill(self) -> None:
        """SIGKILL to it and all of its processes. Nothing is left of them when this returns."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Outcome:
    """All that a job wrote.

    Attributes:
        runs: Of each run the last line of each of its requests.
        capacity: How many tokens vLLM believes to have room for.
        preemptions: How many requests were preempted.
    """

    def __init__(self, lines: Iterator[dict[str, Any]], job: dict[str, Any]) -> None:
        finished: list[dict[str, Any]] = []
        self.capacity = self.preemptions = 0
        for line in lines:
            if line.get("finished"):
                finished.append(line)
            self.capacity = line.get("capacity", self.capacity)
            self.preemptions = line.get("preemptions", self.preemptions)
        self.runs: list[list[dict[str, Any]]] = []
        for run in job["runs"]:
            count = len(run["prompts"])
            self.runs.append(sorted(finished[:count], key=lambda line: line["request"]))
            del finished[:count]

    def tokens(self, run: int = 0) -> list[list[int]]:
        """Of each request of a run."""
        return [line["tokens"] for line in self.runs[run]]


@pytest.fixture(scope="session")
def long(prompts: list[list[int]]) -> list[dict[str, Any]]:
    """Runs of more tokens than of `prompts`: eight prompts of 100 of them, four twice, and two kinds that something is
    killed under.
    """
    batch = [prompt[:100] for prompt in prompts[2:]] * 2
    return [
        {"prompts": batch, "max_tokens": 80},
        {"prompts": prompts[:4], "max_tokens": 60},
        {"prompts": [prompts[4]], "max_tokens": 60},
    ]


@pytest.fixture(scope="session")
def own(
    llama: Path, prompts: list[list[int]], long: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Outcome:
    """What vLLM answers by itself in f32: 16 tokens to each prompt, then the long runs."""
    runs = [{"prompts": prompts, "max_tokens": 16}, *long]
    job = {"model": str(llama), "endpoint": None, "runs": runs}
    engine = Engine(tmp_path_factory.mktemp("own") / "vllm.log", job)
    try:
        return Outcome(engine.lines(), job)
    finally:
        engine.kill()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Engine]]:
    """Starts vLLM with a job; it is killed when the test ends."""
    engines: list[Engine] = []

    def start(job: dict[str, Any]) -> Engine:
        engines.append(Engine(tmp_path / f"vllm-{len(engines)}.log", job))
        return engines[-1]

    yield start
    for engine in engines:
        engine.kill()


@pytest.fixture
def serve(start: Callable[..., Engine]) -> Callable[..., Outcome]:
    """Runs a job to its end."""

    def serve(model: Path, runs: list[dict[str, Any]], endpoint: str | None = None, **job: Any) -> Outcome:
        job |= {"model": str(model), "endpoint": endpoint, "runs": runs}
        return Outcome(start(job).lines(), job)

    return serve
