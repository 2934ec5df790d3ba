"""Small random models on disk, vLLM in processes of its own, and real daemons."""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 256
SHAPE = {
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
    seed = int(os.environ.get("SEED", random.randrange(1 << 30)))
    print(f"SEED={seed}")
    chance = random.Random(seed)
    return [[chance.randrange(VOCABULARY) for _ in range(count)] for count in (10, 33, 128, 300, 901, 1800)]


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _save(LlamaForCausalLM, LlamaConfig(**SHAPE), tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def windowed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of its layers see 100 tokens."""
    return _save(MistralForCausalLM, MistralConfig(**SHAPE, sliding_window=100), tmp_path_factory.mktemp("windowed"))


def _save(family: type, config: object, directory: Path) -> Path:
    torch.manual_seed(11)
    family(config).save_pretrained(directory)
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0", eos_token="w1").save_pretrained(directory)
    return directory


class Engine:
    """A vLLM that has been given a job."""

    def __init__(self, log: Path, job: dict) -> None:
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

    def lines(self) -> Iterator[dict]:
        """What happens, until it ends."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            yield json.loads(line)
        if self.process.wait() != 0:
            raise AssertionError(f"vLLM ended with {self.process.returncode}:\n{self.log.read_text()[-6000:]}")

    def kill(self) -> None:
        """SIGKILL to it and all of its processes."""
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

    def __init__(self, lines: Iterator[dict], job: dict) -> None:
        finished: list[dict] = []
        self.capacity = self.preemptions = 0
        for line in lines:
            if line.get("finished"):
                finished.append(line)
            self.capacity = line.get("capacity", self.capacity)
            self.preemptions = line.get("preemptions", self.preemptions)
        self.runs: list[list[dict]] = []
        for run in job["runs"]:
            count = len(run["prompts"])
            self.runs.append(sorted(finished[:count], key=lambda line: line["request"]))
            del finished[:count]

    def tokens(self, run: int = 0) -> list[list[int]]:
        return [line["tokens"] for line in self.runs[run]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Engine]]:
    """Starts vLLM with a job; it is killed when the test ends."""
    engines: list[Engine] = []

    def start(job: dict) -> Engine:
        engines.append(Engine(tmp_path / f"vllm-{len(engines)}.log", job))
        return engines[-1]

    yield start
    for engine in engines:
        engine.kill()


@pytest.fixture
def serve(start: Callable[..., Engine]) -> Callable[..., Outcome]:
    """Runs a job to its end."""

    def serve(model: Path, runs: list[dict], endpoint: str | None = None, **job: object) -> Outcome:
        job |= {"model": str(model), "endpoint": endpoint, "runs": runs}
        return Outcome(start(job).lines(), job)

    return serve
