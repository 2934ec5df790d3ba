# SPDX-License-Identifier: Apache-2.0

"""The mask function ``dcp``: inspects the mask that a model would build and classifies it.

Daemons know two masks: causal, and causal within a window. A model says its mask as a function of positions; that
function is evaluated here, for each query of the forward pass, and what is neither is refused. The mask that is
returned holds no values: it says the window and each row's left padding to the attention function, and refuses to be
computed with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers.masking_utils import causal_mask_function, sdpa_mask

from dcp_attention.transformers.errors import NotServed

if TYPE_CHECKING:
    from collections.abc import Callable

# How many numbers of a mask are looked at a time.
_BLOCK = 1 << 22


class CheckedMask(torch.Tensor):
    """A mask that was found to be causal.

    Attributes:
        queries: How many it is for.
        keys: How many it is over; the queries are the last of them.
        window: How many tokens a query sees, its own counted; ``None`` for all.
        padding: Tokens of left padding, for each row of the batch; ``None`` where the caller passed no mask.
    """

    queries: int
    keys: int
    window: int | None
    padding: tuple[int, ...] | None

    @staticmethod
    def of(shape: tuple[int, int, int, int], window: int | None, padding: tuple[int, ...] | None) -> CheckedMask:
        """A mask of a shape ``[B, 1, queries, keys]`` that takes no memory."""
        data = torch.ones((), dtype=torch.bool).expand(shape)
        mask: CheckedMask = torch.Tensor._make_subclass(CheckedMask, data)
        _, _, mask.queries, mask.keys = shape
        mask.window, mask.padding = window, padding
        return mask

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name in ("__get__", "size", "dim", "numel", "is_contiguous", "is_floating_point", "__len__"):
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))
        if name in ("to", "contiguous", "clone", "bool") and isinstance(args[0], cls):
            return args[0]
        if name == "__getitem__" and (part := args[0]._part(args[1])) is not None:
            return part
        raise NotServed(
            f"The model computes with its attention mask (`{name}`): it has its own mask or attention code, "
            "which the daemons cannot serve."
        )

    def _part(self, index: Any) -> CheckedMask | None:
        """The mask of the last queries, over all keys; ``None`` for any other part."""
        parts = list(index) if isinstance(index, tuple) else [index]
        if Ellipsis in parts:
            at = parts.index(Ellipsis)
            parts[at : at + 1] = [slice(None)] * (5 - len(parts))
        shape = tuple(self.shape)
        parts += [slice(None)] * (4 - len(parts))
        if not all(isinstance(part, slice) for part in parts):
            return None
        taken = [range(size)[part] for size, part in zip(shape, parts, strict=True)]
        if any(len(some) != size for at, (some, size) in enumerate(zip(taken, shape, strict=True)) if at != 2):
            return None
        queries = taken[2]
        if not queries or queries != range(shape[2] - len(queries), shape[2]):
            return None
        return CheckedMask.of((shape[0], shape[1], len(queries), shape[3]), self.window, self.padding)

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"CheckedMask(window={self.window}, padding={self.padding})"


def dcp_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | torch.Tensor = 0,
    kv_offset: int | torch.Tensor = 0,
    mask_function: Callable[..., Any] = causal_mask_function,
    attention_mask: torch.Tensor | None = None,
    local_size: int | None = None,
    use_vmap: bool = False,
    **_: Any,
) -> CheckedMask:
    """The mask function for ``attn_implementation="dcp"``, with the arguments of ``sdpa_mask``.

    Raises:
        NotServed: The mask is neither causal nor a window, or padding is not on the left.
    """
    first_query, first_key = int(q_offset), int(kv_offset)
    if kv_length + first_key != q_length + first_query:
        raise NotServed(
            f"A mask over {kv_length} keys from {first_key} on for {q_length} queries from {first_query} on: the "
            "queries are not the last tokens, as they are with a DCP cache. Use the model with "
            "past_key_values=DCPCache(...) only."
        )
    if mask_function is not causal_mask_function:

        def allowed(queries: range, keys: int) -> torch.Tensor:
            mask = sdpa_mask(
                batch_size=batch_size,
                q_length=len(queries),
                kv_length=keys,
                q_offset=queries.start,
                mask_function=mask_function,
                allow_is_causal_skip=False,
                use_vmap=use_vmap,
            )
            assert mask is not None
            return mask

        _check(allowed, range(first_query, first_query + q_length), local_size, batch_size)
    return CheckedMask.of((batch_size, 1, q_length, kv_length), local_size, _left_padding(attention_mask))


def _check(allowed: Callable[[range, int], torch.Tensor], queries: range, window: int | None, rows: int) -> None:
    """Compares a mask with the causal one of a window, for each query; for a window also past its end, where it shows
    first.
    """
    if window is not None:
        for position in (window, window + 1, 2 * window + 1):
            try:
                mask = allowed(range(position, position + 1), position + 1)
            except IndexError:  # a mask of what was passed, which has no more positions: those are looked at below
                break
            _compare(mask, range(position, position + 1), window)
    each = max(1, _BLOCK // (queries.stop * rows))
    for start in range(queries.start, queries.stop, each):
        block = range(start, min(start + each, queries.stop))
        _compare(allowed(block, block.stop), block, window)


def _compare(mask: torch.Tensor, queries: range, window: int | None) -> None:
    query = torch.arange(queries.start, queries.stop)[:, None]
    key = torch.arange(mask.shape[-1])[None]
    expected = key <= query
    if window is not None:
        expected = expected & (key > query - window)
    if bool((mask == expected).all()):
        return
    row, _, at, key_at = (int(i) for i in (mask != expected).nonzero()[0])
    kind = "causal" if window is None else f"causal within {window} tokens"
    sees = "sees" if bool(mask[row, 0, at, key_at]) else "does not see"
    raise NotServed(
        f"The model's attention mask is not {kind}: token {queries.start + at} {sees} token {key_at}. Daemons serve "
        "causal attention and windows; chunked attention, prefixes or images that see later tokens, and packed "
        "sequences are not served."
    )


def _left_padding(mask: torch.Tensor | None) -> tuple[int, ...] | None:
    """How many tokens of padding each row begins with."""
    if mask is None:
        return None
    taken = mask.bool()
    padding = (~taken).sum(-1)
    if not bool((taken == (torch.arange(mask.shape[-1], device=mask.device)[None] >= padding[:, None])).all()):
        raise NotServed(
            "The attention mask excludes tokens after the first one that it includes. Pad on the left "
            "(tokenizer.padding_side = 'left'), and only before the first token."
        )
    return tuple(padding.tolist())
