# SPDX-License-Identifier: Apache-2.0

"""The attention of a model's layers, found by observation: one token goes through the model, and each layer's call is
noted.

Configurations are not read for it: what a key means differs from family to family and from release to release, and code
that comes with a checkpoint has keys of its own. What a layer calls is what it does.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import weakref
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from dcp_attention import CacheFormat, InvalidModel, LayerAttention, ModelDescription, ModelMismatch
from dcp_attention.transformers._latent import Latents
from dcp_attention.transformers._sealed import Update
from dcp_attention.transformers.errors import NotServed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedModel

    from dcp_attention import Sequence
    from dcp_attention.transformers._attention import AttentionCall

_FORMATS = {torch.bfloat16: CacheFormat.BF16, torch.float16: CacheFormat.F16, torch.float32: CacheFormat.F32}

# How many numbers of each weight a revision is made of.
_SAMPLES = 256


@dataclass(frozen=True)
class ServedModel:
    """A model as the daemons serve it.

    Attributes:
        name: Its name in the cluster, unless the caller has another: the family, and a digest of all that follows.
        description: Its layers, those that have keys and values of their own, in their order.
        layers: The description's index of each of the model's layers that has keys and values.
        latents: For layers of latent attention, by the model's index, what turns their heads into latents and back.
    """

    name: str
    description: ModelDescription
    layers: dict[int, int]
    latents: dict[int, Latents]

    def check(self, sequence: Sequence) -> None:
        """Refuses a stored sequence of another model.

        Raises:
            ModelMismatch: With both.
        """
        theirs, ours = sequence.model.description, self.description
        if theirs != ours:
            raise ModelMismatch(
                f"Sequence `{sequence.name}` is of model `{sequence.model.name}`, revision `{theirs.revision}`, in a "
                f"cache of {theirs.kv_format.name.lower()}, and the model that would use it is `{self.name}`, revision "
                f"`{ours.revision}`, in one of {ours.kv_format.name.lower()}. Use another name, or the weights and the "
                "kv_format that made it."
            )


class NoStateCache(Cache):
    """A cache that stores nothing locally: one length for all layers, and no other state."""

    def __init__(self) -> None:
        super().__init__(layers=[_Placeholder()])

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """How many keys a query of the next forward pass may see, and the position of the first."""
        return self.get_seq_length(layer_idx) + query_length, 0

    def get_max_length(self, layer_idx: int | None = None) -> int:
        """No maximum."""
        return -1

    def has_previous_state(self, layer_idx: int | None = None, state_idx: int | None = None) -> bool:
        """Refuses layers whose state is not keys and values."""
        raise NotServed(
            f"Layer {layer_idx} keeps a state of one size (a recurrence, linear attention or a convolution) beside "
            "or instead of keys and values. The daemons keep keys and values only."
        )

    get_conv_state = update_conv_state = get_recurrent_state = update_recurrent_state = has_previous_state  # type: ignore[assignment]

    def update_indexer(self, indexer_key_states: torch.Tensor, layer_idx: int) -> torch.Tensor:
        """Refuses layers that choose which keys they attend to."""
        raise NotServed(
            f"Layer {layer_idx} keeps the keys of an indexer that selects tokens (sparse attention). "
            "The daemons attend to all tokens of a window."
        )


class _Placeholder(CacheLayerMixin):
    """Generation queries the kind of each layer of a cache; these layers are all alike."""

    is_sliding = False
    is_croppable = True
    is_compileable = False
    supports_early_init = False

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None: ...

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        raise NotImplementedError("The cache's own update is called, never a layer's.")

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        raise NotImplementedError("The cache knows the sizes of masks.")

    def get_seq_length(self) -> int:
        raise NotImplementedError("The cache knows its length.")

    def get_max_length(self) -> int:
        return -1


class _Notes(NoStateCache):
    """Records each layer's call, and answers with zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.kinds: dict[int, LayerAttention] = {}
        self.sinks: dict[int, tuple[float, ...]] = {}
        self.latents: dict[int, Latents] = {}
        self.dtype: torch.dtype | None = None
        self.waiting: Update | None = None

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.end()
        self.dtype = key_states.dtype
        self.waiting = Update(self, layer_idx, key_states, value_states)
        return self.waiting.seal()

    def attend(self, call: AttentionCall) -> torch.Tensor:
        batch, heads, tokens, _ = call.query.shape
        if call.update is self.waiting:
            self.waiting = None
            layer = call.update.layer
            latents = Latents.of(call)
            if latents is not None:
                self.latents[layer] = latents
            self.kinds[layer] = attention_of(call, is_latent=latents is not None)
            if call.sinks is not None:
                self.sinks[layer] = tuple(call.sinks.detach().float().tolist())
        return call.query.new_zeros(batch, tokens, heads, call.value.shape[-1])

    def end(self) -> None:
        """Refuses an update that no step followed."""
        if self.waiting is not None:
            raise not_attended(self.waiting.layer)


def not_attended(layer: int) -> NotServed:
    """The error of a layer that gave its keys and values away and did not call the attention function."""
    return NotServed(
        f"Layer {layer} passed keys and values to its cache and did not call the attention function `dcp`: it "
        'computes attention in code of its own. Load the model with attn_implementation="dcp"; if it was, its '
        "architecture cannot be served."
    )


# The same object for the same call, layer after layer and token after token.
_kind = lru_cache(maxsize=256)(LayerAttention)


def attention_of(call: AttentionCall, *, is_latent: bool) -> LayerAttention:
    """The kind of layer that makes a call.

    Raises:
        NotServed: With what the daemons' limits say of it.
    """
    if is_latent:
        latent, rotated = call.update.keys.shape[-1], call.update.values.shape[-1]
        kv_heads, key_dim, value_dim = 1, latent + rotated, latent
    else:
        kv_heads, key_dim, value_dim = call.key.shape[1], call.key.shape[3], call.value.shape[3]
    try:
        return _kind(
            query_heads=call.query.shape[1],
            kv_heads=kv_heads,
            key_dim=key_dim,
            value_dim=value_dim,
            scale=call.scale,
            softcap=call.softcap,
            window=call.mask.window,
            has_sinks=call.sinks is not None,
            leading_values=is_latent,
        )
    except InvalidModel as error:
        raise NotServed(f"Layer {call.update.layer}: {error.message}") from error


_served: weakref.WeakKeyDictionary[PreTrainedModel, tuple[object, ServedModel]] = weakref.WeakKeyDictionary()


def served(
    model: PreTrainedModel, revision: str | None = None, kv_format: CacheFormat | str | None = None
) -> ServedModel:
    """How the daemons serve a model; determined once, and again when its weights change.

    Args:
        model: With ``attn_implementation="dcp"``.
        revision: What identifies its weights; ``None`` is a digest of a sample of each weight, of the adapters that
            are on, and of the configuration.
        kv_format: How the daemons' caches keep keys and values; ``None`` is the dtype of the model's own.

    Raises:
        NotServed: It has a layer that they cannot serve.
        InvalidModel: There is no such format.
    """
    form = CacheFormat.named(kv_format) if isinstance(kv_format, str) else kv_format
    # Every change in place raises a tensor's version; every other one makes another tensor.
    weights = tuple((weight.data_ptr(), weight._version, weight.dtype) for _, weight in _weights(model))
    state = (revision, form, weights, tuple(_adapters(model)))
    known, facts = _served.get(model, (None, None))
    if facts is None or known != state:
        facts = _look(model, revision, form)
        _served[model] = state, facts
    return facts


def _look(model: PreTrainedModel, revision: str | None, kv_format: CacheFormat | None) -> ServedModel:
    config = model.config.get_text_config(decoder=True)
    implementation = config._attn_implementation
    if implementation != "dcp":
        raise NotServed(
            f'The model computes attention with `{implementation}`. Load it with attn_implementation="dcp", or call '
            'model.set_attn_implementation("dcp"); one that keeps its own even so has attention code of its own, '
            "and cannot be served."
        )
    if model.config.is_encoder_decoder:
        raise NotServed(
            "The model is an encoder with a decoder, whose cross attention does not attend to its own tokens. "
            "Daemons serve decoders."
        )
    notes = _Notes()
    token = torch.zeros(1, 1, dtype=torch.long, device=model.device)
    with torch.no_grad():
        model(input_ids=token, use_cache=True, **{cache_argument(model): notes})
    notes.end()
    if not notes.kinds:
        raise NotServed(
            f"No layer of `{type(model).__name__}` passed keys and values to its cache: it has no attention that "
            "could be served."
        )
    if notes.dtype not in _FORMATS:
        raise NotServed(
            f"Keys are {notes.dtype}; the daemons' caches keep bfloat16, float16 or float32. Load the model in one "
            "of them."
        )
    order = sorted(notes.kinds)
    try:
        description = ModelDescription(
            layers=tuple(notes.kinds[layer] for layer in order),
            kv_format=_FORMATS[notes.dtype] if kv_format is None else kv_format,
            sinks=tuple(notes.sinks.get(layer, ()) for layer in order) if notes.sinks else (),
            revision=revision or _revision(model),
        )
    except InvalidModel as error:
        raise NotServed(error.message) from error
    digest = hashlib.sha256(repr(description).encode()).hexdigest()[:12]
    return ServedModel(
        name=f"{config.model_type}-{digest}",
        description=description,
        layers={layer: index for index, layer in enumerate(order)},
        latents=notes.latents,
    )


def cache_argument(model: PreTrainedModel) -> str:
    """The name of the cache argument of a model's forward pass, which depends on the release of transformers."""
    parameters = inspect.signature(model.forward).parameters
    return next((name for name in ("cache", "cache_params") if name in parameters), "past_key_values")


def _revision(model: PreTrainedModel) -> str:
    """A digest that differs when weights or settings do. Of each weight a sample is read: a model is loaded to be
    used at once.
    """
    digest = hashlib.sha256()
    config = model.config.to_dict()
    for ignored in ("_name_or_path", "transformers_version", "_attn_implementation", "use_cache"):
        config.pop(ignored, None)
    digest.update(json.dumps(config, sort_keys=True, default=str).encode())
    for name, weight in _weights(model):
        flat = weight.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // _SAMPLES)].cpu()
        # Words of packed weights have more bits than a float.
        numbers = sample if sample.dtype in (torch.int32, torch.int64) else sample.float()
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        digest.update(numbers.numpy().tobytes())
    for adapters in _adapters(model):
        digest.update(adapters.encode())
    return f"sample:{digest.hexdigest()[:32]}"


def _weights(model: PreTrainedModel) -> Iterator[tuple[str, torch.Tensor]]:
    """What a model is saved as: parameters, and buffers, which are what packed weights (GPTQ, AWQ) are in."""
    yield from model.named_parameters()
    for place, module in model.named_modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and name not in module._non_persistent_buffers_set:
                yield f"{place}.{name}", buffer


def _adapters(model: PreTrainedModel) -> Iterator[str]:
    """What each layer with adapters of PEFT, which may not be installed, does with them: switching one on or off, or
    weighing it otherwise, changes no weight.
    """
    for place, module in model.named_modules():
        if hasattr(module, "merged_adapters") and hasattr(module, "disable_adapters"):
            active = [] if module.disable_adapters else list(module.active_adapters)
            scaling = getattr(module, "scaling", {})
            yield f"{place} {[(name, scaling.get(name)) for name in active]} {list(module.merged_adapters)}"
