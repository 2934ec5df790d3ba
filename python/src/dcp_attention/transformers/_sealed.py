# SPDX-License-Identifier: Apache-2.0

"""Tensors that only the attention function ``dcp`` can open.

`DCPCache.update` returns the new keys and values sealed. A model whose own code computes attention from them would
attend to the new tokens only, and generate fluent nonsense: sealed tensors refuse the first product instead. They
also carry which update they are of, so that layers that use another layer's keys and values are recognised by the
tensors they pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

from dcp_attention.transformers.errors import NotServed

if TYPE_CHECKING:
    from collections.abc import Callable

    from dcp_attention.transformers._attention import AttentionCall


class Owner(Protocol):
    """Selects what computes the attention of an update."""

    def attend(self, call: AttentionCall) -> torch.Tensor:
        """The output of an attention call, ``[B, T, Hq, Dv]`` in the queries' dtype, on their device."""
        ...


@dataclass(eq=False)
class Update:
    """The keys and values that one layer of a forward pass hands to the cache.

    Attributes:
        owner: The cache.
        layer: The model's index of the layer.
        keys: As the model passed them, ``[B, heads, T, D]``: ready keys, or the latents of latent attention.
        values: Likewise; the rotated dimensions in latent attention.
        number: Which forward pass of the cache it is of.
        is_served: Whether a step followed: its keys and values are in the daemons.
        is_refused: Whether its attention was asked for and failed, which was reported.
    """

    owner: Owner
    layer: int
    keys: torch.Tensor
    values: torch.Tensor
    number: int = 0
    is_served: bool = False
    is_refused: bool = False

    def seal(self) -> tuple[SealedTensor, SealedTensor]:
        """The keys and the values, sealed."""
        return SealedTensor.of(self.keys, self), SealedTensor.of(self.values, self)


# What says how a tensor looks, not what is in it.
_METADATA = {
    torch.Tensor.size,
    torch.Tensor.dim,
    torch.Tensor.stride,
    torch.Tensor.numel,
    torch.Tensor.is_contiguous,
    torch.Tensor.is_floating_point,
    torch.Tensor.element_size,
    torch.Tensor.__len__,
    *(
        getattr(torch.Tensor, name).__get__
        for name in ("shape", "dtype", "device", "ndim", "requires_grad", "is_cuda", "is_cpu", "layout", "grad_fn")
    ),
}

# What treats each token for itself, and leads from latents to keys and values. Products with queries are not among it.
_BY_TOKEN = {
    torch._C._nn.linear,
    torch.cat,
    torch.split,
    torch.chunk,
    torch.reshape,
    torch.transpose,
    torch.permute,
    torch.unsqueeze,
    torch.squeeze,
    torch.Tensor.split,
    torch.Tensor.chunk,
    torch.Tensor.view,
    torch.Tensor.reshape,
    torch.Tensor.transpose,
    torch.Tensor.permute,
    torch.Tensor.expand,
    torch.Tensor.unsqueeze,
    torch.Tensor.squeeze,
    torch.Tensor.contiguous,
    torch.Tensor.clone,
    torch.Tensor.to,
    torch.Tensor.new_empty,
    torch.Tensor.copy_,
    torch.Tensor.__getitem__,
}


class SealedTensor(torch.Tensor):
    """Keys or values of an `Update`, or tensors derived from them token by token.

    Attributes:
        update: Theirs.
        plain: The same tensor, not sealed.
    """

    update: Update
    plain: torch.Tensor

    @staticmethod
    def of(data: torch.Tensor, update: Update) -> SealedTensor:
        """Seals a tensor; no data is copied."""
        plain = data.detach()
        sealed: SealedTensor = torch.Tensor._make_subclass(SealedTensor, plain)
        sealed.update, sealed.plain = update, plain
        return sealed

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            if func in _METADATA:
                return func(*args, **(kwargs or {}))
            update = _first((*args, *(kwargs or {}).values())).update
            if func not in _BY_TOKEN:
                raise NotServed(
                    f"Layer {update.layer} uses `{getattr(func, '__name__', func)}` on keys or values of a DCP "
                    'cache: it computes attention in code of its own, or not with attn_implementation="dcp", and '
                    'would see the new tokens only. Load the model with attn_implementation="dcp"; if it was, its '
                    "architecture cannot be served."
                )
            return _seal(func(*args, **(kwargs or {})), update)

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"SealedTensor(shape={tuple(self.shape)}, layer={self.update.layer})"


def _first(values: Any) -> SealedTensor:
    """The first sealed tensor among arguments, or in a list that is one."""
    for value in values:
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, SealedTensor):
                return item
    raise TypeError("a torch function was dispatched to SealedTensor without one")


def _seal(result: Any, update: Update) -> Any:
    if isinstance(result, (tuple, list)):
        return type(result)(_seal(item, update) for item in result)
    return SealedTensor.of(result, update) if isinstance(result, torch.Tensor) else result
