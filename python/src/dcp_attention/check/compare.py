# SPDX-License-Identifier: Apache-2.0

"""Compares a model's own attention with the daemons' on the same prompts."""

from __future__ import annotations

import secrets
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, cast

import torch

from dcp_attention import CacheFormat
from dcp_attention.check.rounding import RoundingCache
from dcp_attention.transformers import DCPCache, NotServed, cache_argument, served

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from transformers import PreTrainedModel

    from dcp_attention import Cluster, LayerAttention
    from dcp_attention.check.loading import Source

# f32: both sides add up the same numbers in another order. Each sum is off by some 1e-7 of itself; layers pass that
# on and enlarge it. A wrong scale, window or mask changes logits by tenths of them.
_F32_TOLERANCE = 2e-4

# Where tokens differ the comparison goes on with the model's own, so many times: each prefills once more.
_DIFFERENT_TOKENS = 8


@dataclass(frozen=True)
class Prompt:
    """The result for one prompt.

    Attributes:
        length: Its tokens.
        generated: Tokens that were compared.
        equal: How many of them are the same.
        difference: The largest difference of a logit.
        scale: The largest logit.
        tolerance: How large the difference may be; see `compare_model`.
        margin: Where tokens differ, how far the model itself preferred its own, at most: up to the tolerance is a tie.
    """

    length: int
    generated: int
    equal: int
    difference: float
    scale: float
    tolerance: float
    margin: float | None

    @property
    def verdict(self) -> str:
        """``equal``, ``tied`` (another token that the model likes as much) or ``differs``."""
        if self.difference > self.tolerance:
            return "differs"
        if self.margin is None:
            return "equal"
        return "tied" if self.margin <= self.tolerance else "differs"


@dataclass(frozen=True)
class Report:
    """The result for a model.

    Attributes:
        model: What the user called it.
        dtype: Of its weights.
        kv_format: Of the daemons' cache.
        attention: What the daemons were compared with: what transformers chooses for the model.
        verdict: ``equal``, ``tied``, ``differs`` or ``refused``.
        reason: Why it was refused.
        layers: Its kinds of layers in words, with how many there are of each.
        bytes_per_token: Of the cache, in all layers over all ranks.
        prompts: What became of each.
    """

    model: str
    dtype: str
    kv_format: str
    attention: str
    verdict: str
    reason: str | None = None
    layers: tuple[tuple[str, int], ...] = ()
    bytes_per_token: int = 0
    prompts: tuple[Prompt, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        answer = asdict(self)
        for prompt, value in zip(self.prompts, answer["prompts"], strict=True):
            value["verdict"] = prompt.verdict
        return answer


def in_words(layer: LayerAttention) -> str:
    """A kind of layer, as a table has it."""
    if layer.leading_values:
        heads = f"{layer.query_heads} heads on latents of {layer.value_dim} + {layer.key_dim - layer.value_dim}"
    else:
        dims = f"{layer.key_dim}" if layer.key_dim == layer.value_dim else f"{layer.key_dim} and {layer.value_dim}"
        heads = f"{layer.query_heads} heads on {layer.kv_heads} of {dims}"
    words = [heads, *([f"window {layer.window}"] if layer.window else [])]
    words += [*([f"soft cap {layer.softcap:g}"] if layer.softcap else []), *(["sinks"] if layer.has_sinks else [])]
    return ", ".join(words)


def compare(
    source: Source,
    cluster: Cluster,
    prompts: Sequence[Sequence[int]] | None = None,
    *,
    lengths: Sequence[int] = (10, 60, 200),
    dtype: str | None = None,
    kv_format: CacheFormat | None = None,
    tokens: int = 32,
) -> Report:
    """Loads a model, and compares it as `compare_model` does.

    Args:
        source: The model.
        cluster: Where the daemons are.
        prompts: Token ids; ``None`` draws some.
        lengths: Of those that are drawn.
        dtype: See `Source.load`.
        kv_format: See `compare_model`.
        tokens: How many to generate.
    """
    try:
        model = source.load(None, dtype)
    except ImportError as error:
        return Report(source.name, dtype or "", "", "", "refused", f"transformers cannot load it: {error}")
    prompts = prompts or draw(model, source.seed, lengths)
    return compare_model(source.name, model, cluster, prompts, kv_format=kv_format, tokens=tokens)


def compare_model(
    name: str,
    model: PreTrainedModel,
    cluster: Cluster,
    prompts: Sequence[Sequence[int]],
    *,
    kv_format: CacheFormat | None = None,
    tokens: int = 32,
) -> Report:
    """Generates greedily with the model's own attention and with the daemons', and compares tokens and
    logits.

    In f32 logits may differ by 2e-4 of the largest. In bf16 and f16 the model's own attention rounds more than the
    daemons do, so that the two differ by what the model's own rounding is: the same weights compute once more in f32,
    and the daemons' logits must be no further from those than twice as far as the model's own are. A rounding changes
    the logits of some tokens by several times as much as those of others, and any one computation is lucky with some
    of them. So the model's own are those of all prompts, in each way that transformers has to compute them. The model
    is in f32 afterwards.

    A cache of another format than the model's dtype rounds more, such as one of ``int8``. What that does to the model
    its own attention shows, over keys and values that are rounded alike: these are further ways, in f32 too.

    Where tokens differ, the daemons go on with the model's own, so that all of them are compared, and not only those
    before the first tie: where ties lie depends on the machine.

    Args:
        name: What the report calls it.
        model: The model.
        cluster: Where the daemons are.
        prompts: Token ids.
        kv_format: Of the daemons' cache; ``None`` is the model's dtype.
        tokens: How many to generate.
    """
    dtype = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}[model.dtype]
    attention = model.config.get_text_config(decoder=True)._attn_implementation
    form = kv_format or CacheFormat.named(dtype)
    own = [_generate(model, prompt, tokens, None) for prompt in prompts]
    try:
        _use_daemons(model)
        facts = served(model, kv_format=form)
        daemons = [_along(model, prompt, run, cluster, form) for prompt, run in zip(prompts, own, strict=True)]
    except NotServed as refusal:
        return Report(name, dtype, form.name.lower(), attention, "refused", str(refusal))
    exact = own
    rounding = 0.0
    ways = [] if dtype == "f32" else [own, *_forced_ways(model, prompts, own)]
    if form is not CacheFormat.named(dtype):
        ways += _forced_ways(model, prompts, own, form)
    model.set_attn_implementation(attention)
    if ways:
        torch.nn.Module.float(
            model
        )  # transformers refuses it for weights that came from GGUF, though they are plain ones
        exact = [_forced(model, prompt, run) for prompt, run in zip(prompts, own, strict=True)]
        rounding = max(_difference(*runs) for way in ways for runs in zip(way, exact, strict=True))
    results = tuple(
        _judge(len(prompt), one, other, third, rounding)
        for prompt, one, other, third in zip(prompts, own, daemons, exact, strict=True)
    )
    verdicts = [result.verdict for result in results]
    layers = facts.description.layers
    return Report(
        name,
        dtype,
        form.name.lower(),
        attention,
        next(verdict for verdict in ("differs", "tied", "equal") if verdict in verdicts),
        layers=tuple((in_words(kind), layers.count(kind)) for kind in facts.description.kinds),
        bytes_per_token=facts.description.kept_bytes,
        prompts=results,
    )


def draw(model: PreTrainedModel, seed: int, lengths: Sequence[int]) -> list[list[int]]:
    """Random token ids."""
    generator = torch.Generator().manual_seed(seed)
    size = model.config.get_text_config(decoder=True).vocab_size
    return [torch.randint(3, size, (length,), generator=generator).tolist() for length in lengths]


@dataclass(frozen=True)
class _Run:
    ids: list[int]
    logits: torch.Tensor  # f32, [tokens, vocabulary]


def _use_daemons(model: PreTrainedModel) -> None:
    """Gives the model the daemons' attention, if it takes any."""
    model.set_attn_implementation("dcp")
    kept = model.config.get_text_config(decoder=True)._attn_implementation
    if kept != "dcp":
        raise NotServed(
            f"It has its own attention code, and keeps `{kept}` when `dcp` is selected. It cannot be served."
        )


def _generate(model: PreTrainedModel, prompt: Sequence[int], tokens: int, cache: DCPCache | None) -> _Run:
    ids = torch.tensor([list(prompt)], device=model.device)
    with torch.no_grad():
        answer = cast("Any", model).generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
            **({} if cache is None else {cache_argument(model): cache}),
        )
    return _Run(answer.sequences[0, len(prompt) :].tolist(), torch.cat(answer.logits).float().cpu())


def _along(model: PreTrainedModel, prompt: Sequence[int], own: _Run, cluster: Cluster, kv_format: CacheFormat) -> _Run:
    """What the daemons generate, each token after the model's own before it.

    Shorter than `own` where more than `_DIFFERENT_TOKENS` differ.
    """
    found = _Run([], own.logits[:0])
    for _ in range(1 + _DIFFERENT_TOKENS):
        done = len(found.ids)
        cache = DCPCache(cluster, f"check-{secrets.token_hex(6)}", model=model, kv_format=kv_format)
        run = _generate(model, [*prompt, *own.ids[:done]], len(own.ids) - done, cache)
        cache.delete()
        pairs = zip(own.ids[done:], run.ids, strict=True)
        until = next((at + 1 for at, (one, other) in enumerate(pairs) if one != other), len(run.ids))
        found = _Run([*found.ids, *run.ids[:until]], torch.cat([found.logits, run.logits[:until]]))
        if len(found.ids) == len(own.ids):
            break
    return found


def _forced(model: PreTrainedModel, prompt: Sequence[int], run: _Run, kv_format: CacheFormat | None = None) -> _Run:
    """The logits of the same tokens from another model, or over rounded keys and values: one forward pass."""
    ids = torch.tensor([[*prompt, *run.ids[:-1]]], device=model.device)
    cache = {} if kv_format is None else {cache_argument(model): RoundingCache(kv_format)}
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=bool(cache), **cache).logits[0, len(prompt) - 1 :]
    return _Run(run.ids, logits.float().cpu())


def _forced_ways(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    runs: Sequence[_Run],
    kv_format: CacheFormat | None = None,
) -> Iterator[list[_Run]]:
    """The logits of the same tokens in each way that transformers can compute the model's attention on CPUs."""
    for way in ("eager", "sdpa"):
        try:
            model.set_attn_implementation(way)
        except ValueError:  # not every model has both
            continue
        yield [_forced(model, prompt, run, kv_format) for prompt, run in zip(prompts, runs, strict=True)]


def _difference(one: _Run, other: _Run) -> float:
    count = min(len(one.ids), len(other.ids))
    return float((one.logits[:count] - other.logits[:count]).abs().max())


def _judge(length: int, own: _Run, daemons: _Run, exact: _Run, rounding: float) -> Prompt:
    count = len(daemons.ids)
    scale = float(own.logits[:count].abs().max())
    difference = _difference(daemons, exact)
    tolerance = _F32_TOLERANCE * scale + 2 * rounding
    margins = [
        float(logits[one] - logits[other])
        for logits, one, other in zip(own.logits[:count], own.ids[:count], daemons.ids, strict=True)
        if one != other
    ]
    return Prompt(length, count, count - len(margins), difference, scale, tolerance, max(margins, default=None))
