# SPDX-License-Identifier: Apache-2.0

"""Chats with a GGUF model through llama.cpp, whose attention a cluster computes: no fork, no patch, an unchanged build.

llama.cpp calls an evaluation callback between the nodes of its graph. Here it reads each layer's queries, keys and
values as they come out of the rotary embedding, asks the cluster, and overwrites what llama.cpp's own attention has put
into ``kqv_out`` before the next node reads it. llama.cpp's own cache is as small as one batch, and cleared before each.

    export DCP_COORDINATOR=unix:$PWD/cluster/coordinator.sock
    python examples/llama_cpp_chat.py SmolLM2-135M-Instruct.Q4_1.gguf "What is the capital of France?"

Said twice, the second run reads the first one's tokens from the cluster. What it costs: llama.cpp still computes its
own attention, over one batch, and a graph that is watched is computed node by node. llama-server has no such hook.
"""

from __future__ import annotations

import argparse
import codecs
import ctypes
import os
import secrets
import sys
from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf

import llama_cpp
import numpy as np
from llama_cpp._ctypes_extensions import load_shared_library
from llama_cpp._ggml import libggml_base_path

from dcp_attention import CacheFormat, Cluster, Commit, Entry, Model, ModelDescription, Sequence

BATCH = 256
WATCHED = ("Qcur", "Kcur", "Vcur", "kqv_out")

ggml = load_shared_library("ggml-base", libggml_base_path)
ggml.ggml_get_name.argtypes, ggml.ggml_get_name.restype = [ctypes.c_void_p], ctypes.c_char_p
ggml.ggml_nbytes.argtypes, ggml.ggml_nbytes.restype = [ctypes.c_void_p], ctypes.c_size_t
ggml.ggml_element_size.argtypes, ggml.ggml_element_size.restype = [ctypes.c_void_p], ctypes.c_size_t
ggml.ggml_is_contiguous.argtypes, ggml.ggml_is_contiguous.restype = [ctypes.c_void_p], ctypes.c_bool
for _copy in (ggml.ggml_backend_tensor_get, ggml.ggml_backend_tensor_set):
    _copy.argtypes, _copy.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t], None


class ClusterLlama:
    """A GGUF model of the architecture ``llama`` whose KV cache is a sequence of a cluster.

    Args:
        path: The GGUF file.
        cluster: Where its keys and values are.
        name: The model's name there.
        kv_format: What the cluster keeps of keys and values; f16 is what llama.cpp's own cache has.
    """

    def __init__(self, path: str, cluster: Cluster, name: str, kv_format: CacheFormat = CacheFormat.F16) -> None:
        llama_cpp.llama_log_set(_silent, ctypes.c_void_p())
        self._llama = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
        if not self._llama:
            raise SystemExit(f"{path} is no GGUF file that llama.cpp {llama_cpp.__version__} can read.")
        architecture = self._metadata("general.architecture")
        if architecture != "llama":
            # Others have windows, soft caps or scales that only their code in llama.cpp tells.
            raise SystemExit(f"{path} is of the architecture {architecture}; this example knows llama.")
        self._vocabulary = llama_cpp.llama_model_get_vocab(self._llama)
        layers = llama_cpp.llama_model_n_layer(self._llama)
        self._heads = llama_cpp.llama_model_n_head(self._llama)
        self._kv_heads = llama_cpp.llama_model_n_head_kv(self._llama)
        width = llama_cpp.llama_model_n_embd(self._llama) // self._heads
        self._dim = int(self._metadata("llama.attention.key_length") or width)
        description = ModelDescription.uniform(
            layers, query_heads=self._heads, kv_heads=self._kv_heads, key_dim=self._dim, kv_format=kv_format
        )
        self.model: Model = cluster.register_model(name, description)
        self.last_layer = layers - 1
        self._cluster = cluster
        self._seen: dict[str, np.ndarray] = {}
        self._entry: Entry | None = None
        self._failure: BaseException | None = None
        self._watch = llama_cpp.ggml_backend_sched_eval_callback(self._evaluated)  # kept: C has no reference to it
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = BATCH
        params.n_threads = params.n_threads_batch = max(1, (os.cpu_count() or 1) // 2)  # daemons compute in between
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED  # else there is no kqv_out
        params.cb_eval = self._watch
        self._context = llama_cpp.llama_init_from_model(self._llama, params)
        self._batch = llama_cpp.llama_batch_init(BATCH, 0, 1)

    def close(self) -> None:
        """Frees what llama.cpp holds."""
        llama_cpp.llama_batch_free(self._batch)
        llama_cpp.llama_free(self._context)
        llama_cpp.llama_model_free(self._llama)

    # Tokens.

    def prompt(self, text: str) -> list[int]:
        """The ids of a question, in the model's own template."""
        messages = (llama_cpp.llama_chat_message * 1)(llama_cpp.llama_chat_message(b"user", text.encode()))
        template = llama_cpp.llama_model_chat_template(self._llama, None)
        size = llama_cpp.llama_chat_apply_template(template, messages, 1, True, None, 0)
        buffer = ctypes.create_string_buffer(size + 1)
        llama_cpp.llama_chat_apply_template(template, messages, 1, True, buffer, size + 1)
        return self.tokens(buffer.raw[:size])

    def tokens(self, text: bytes) -> list[int]:
        """The ids of a text, in which special tokens may be written out."""
        ids = (llama_cpp.llama_token * (len(text) + 8))()
        count = llama_cpp.llama_tokenize(self._vocabulary, text, len(text), ids, len(ids), True, True)
        return list(ids[:count])

    def piece(self, token: int) -> bytes:
        """A token's text, which may be a part of a character's bytes."""
        buffer = ctypes.create_string_buffer(256)
        size = llama_cpp.llama_token_to_piece(self._vocabulary, token, buffer, len(buffer), 0, False)
        return buffer.raw[:size]

    # Generation.

    def generate(self, sequence: Sequence, ids: SequenceOf[int], held: int, most: int) -> Iterator[int]:
        """The likeliest tokens after a prompt, each as soon as it is known; everything before it is committed by then.

        Args:
            sequence: This client's, with the first ``held`` ids and nothing else.
            ids: The prompt, of which at least one id is not held.
            held: How many of them need no computing.
            most: How many tokens at most.
        """
        ids = list(ids)
        for _ in range(most):
            while held < len(ids):
                chunk = ids[held : held + BATCH]
                logits = self._evaluate(Entry(sequence, held, len(chunk)), chunk)
                held += len(chunk)
                self._cluster.commit([Commit(sequence, held, token_ids=chunk)])
            token = int(logits.argmax())
            if llama_cpp.llama_vocab_is_eog(self._vocabulary, token):
                return
            yield token
            ids.append(token)

    def _evaluate(self, entry: Entry, ids: list[int]) -> np.ndarray:
        """The logits of the last of some tokens, whose keys and values are appended."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), False)
        batch = self._batch
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = token, entry.position + i, 1, 0
            batch.logits[i] = i == len(ids) - 1
        self._entry = entry
        status = llama_cpp.llama_decode(self._context, batch)
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        if status != 0:
            raise RuntimeError(f"llama_decode returned {status}.")
        size = llama_cpp.llama_vocab_n_tokens(self._vocabulary)
        return np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(self._context, len(ids) - 1), (size,))

    def _evaluated(self, tensor: int, is_question: bool, _: int | None) -> bool:
        """Before a node: whether it is of interest. After one that is: whether to go on. No error may get into C."""
        name, _, layer = ggml.ggml_get_name(tensor).decode().rpartition("-")
        if is_question:
            return name in WATCHED and layer.isdigit()
        try:
            if name == "kqv_out":
                self._attend(int(layer), tensor)
            else:
                # A name comes up before and after the rotary embedding: the last one counts.
                self._seen[name] = _read(tensor)
        except BaseException as failure:  # Ctrl-C, too, waits until llama.cpp has returned
            self._failure = failure
            return False
        return True

    def _attend(self, layer: int, output: int) -> None:
        q = self._seen.pop("Qcur").reshape(-1, self._heads, self._dim)
        k = self._seen.pop("Kcur").reshape(-1, self._kv_heads, self._dim)
        v = self._seen.pop("Vcur").reshape(-1, self._kv_heads, self._dim)
        assert self._entry is not None
        answer = self._cluster.step(layer, [self._entry], q, k, v, lse=False)
        rows = np.ascontiguousarray(answer.out)
        if rows.nbytes != ggml.ggml_nbytes(output):
            raise RuntimeError(f"kqv_out has {ggml.ggml_nbytes(output)} bytes, and the attention {rows.nbytes}.")
        ggml.ggml_backend_tensor_set(output, rows.ctypes.data, 0, rows.nbytes)

    def _metadata(self, key: str) -> str:
        buffer = ctypes.create_string_buffer(256)
        size = llama_cpp.llama_model_meta_val_str(self._llama, key.encode(), buffer, len(buffer))
        return buffer.value.decode() if size >= 0 else ""


def _read(tensor: int) -> np.ndarray:
    """A tensor's f32 numbers, wherever its backend has them."""
    if ggml.ggml_element_size(tensor) != 4 or not ggml.ggml_is_contiguous(tensor):
        raise RuntimeError(f"{ggml.ggml_get_name(tensor).decode()} is not a contiguous f32 tensor.")
    numbers = np.empty(ggml.ggml_nbytes(tensor) // 4, np.float32)
    ggml.ggml_backend_tensor_get(tensor, numbers.ctypes.data, 0, numbers.nbytes)
    return numbers


@llama_cpp.llama_log_callback
def _silent(level: int, text: bytes, user: int) -> None:
    pass


def main() -> None:
    parser = argparse.ArgumentParser(description="Chat with a GGUF model whose KV cache is in a cluster.")
    parser.add_argument("model", help="a GGUF file of the architecture llama")
    parser.add_argument("prompt")
    parser.add_argument("--coordinator", help="unix:PATH or tcp:HOST:PORT; default: DCP_COORDINATOR")
    parser.add_argument("--tokens", type=int, default=128, help="how many tokens at most (default: 128)")
    options = parser.parse_args()
    with Cluster.connect(options.coordinator) as cluster:
        llama = ClusterLlama(options.model, cluster, os.path.basename(options.model))
        ids = llama.prompt(options.prompt)
        chat = f"llama-{secrets.token_hex(6)}"
        sequence, held = cluster.open_matching(chat, llama.model, ids, longest=len(ids) - 1)
        print(f"{held} of {len(ids)} tokens of the prompt are in the cluster already.", file=sys.stderr)
        text = codecs.getincrementaldecoder("utf-8")("replace")
        for token in llama.generate(sequence, ids, held, options.tokens):
            print(text.decode(llama.piece(token)), end="", flush=True)
        print()
        cluster.close_sequences([sequence], keep=True)
        llama.close()


if __name__ == "__main__":
    main()
