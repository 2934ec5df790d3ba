# SPDX-License-Identifier: Apache-2.0

"""The attention function ``dcp``: checks a model's call and passes it to the cache behind its keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from dcp_attention.transformers._masks import CheckedMask
from dcp_attention.transformers._sealed import SealedTensor
from dcp_attention.transformers.errors import NotServed

if TYPE_CHECKING:
    from dcp_attention.transformers._sealed import Update


class AttentionCall(NamedTuple):
    """One layer's attention in one forward pass.

    Attributes:
        module: The layer's attention module.
        update: Whose keys and values are attended to: the layer's own, or another layer's.
        query: ``[B, Hq, T, Dk]``.
        key: The new tokens' keys, ``[B, Hkv, T, Dk]``.
        value: The new tokens' values, ``[B, Hkv, T, Dv]``.
        mask: What the model's mask was found to be.
        scale: Multiplies every score.
        softcap: c of ``c tanh(score / c)``; ``None`` for none.
        sinks: One logit for each query head; ``None`` for none.
        positions: Of the new tokens, as the model counts them, ``[..., 1 or B, T]``; ``None`` where it does not say.
    """

    module: torch.nn.Module
    update: Update
    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    mask: CheckedMask
    scale: float
    softcap: float | None
    sinks: torch.Tensor | None
    positions: torch.Tensor | None


# Arguments that change attention in a way that the daemons do not know.
_UNKNOWN = {
    "position_bias": "a bias on the scores",
    "alibi": "a bias on the scores (ALiBi)",
    "attention_bias": "a bias on the scores",
    "score_mod": "a function of the scores",
    "head_mask": "a mask of heads",
    "indices": "a choice of keys (sparse attention)",
    "block_indices": "a choice of blocks of keys (sparse attention)",
    "sinks": "sinks that are not logits",
    "output_attentions": "the weights of its attention (output_attentions=True), which no daemon returns",
}


def dcp_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """The attention function for ``attn_implementation="dcp"``, with the arguments of transformers' other ones.

    Raises:
        NotServed: No DCP cache is behind the keys, or the daemons do not know this kind of attention.
    """
    name = type(module).__name__
    if not isinstance(key, SealedTensor) or not isinstance(value, SealedTensor):
        raise NotServed(
            f'`{name}` computes attention without a DCP cache, which attn_implementation="dcp" is for. Pass '
            "past_key_values=DCPCache(cluster, name) and leave use_cache=True; encoders and cross attention are not "
            "served."
        )
    update = key.update
    try:
        mask = _checked(module, query, attention_mask, dropout, is_causal, kwargs)
    except NotServed:
        update.is_refused = True
        raise
    call = AttentionCall(
        module=module,
        update=update,
        query=query,
        key=key.plain,
        value=value.plain,
        mask=mask,
        scale=float(scaling) if scaling is not None else query.shape[-1] ** -0.5,
        softcap=None if softcap is None else float(softcap),
        sinks=s_aux,
        positions=kwargs.get("position_ids"),
    )
    return update.owner.attend(call), None


def _checked(
    module: torch.nn.Module,
    query: torch.Tensor,
    mask: torch.Tensor | None,
    dropout: float,
    is_causal: bool | None,
    others: dict[str, Any],
) -> CheckedMask:
    """Refuses arguments that the daemons do not support; returns the mask."""
    name = type(module).__name__
    for argument in others.keys() & _UNKNOWN.keys():
        if (passed := others[argument]) is not None and passed is not False:
            raise NotServed(f"`{name}` passes `{argument}`: {_UNKNOWN[argument]}. The daemons do not serve it.")
    if dropout:
        raise NotServed(f"`{name}` drops out {dropout} of its attention, as in training. Call model.eval().")
    if torch.is_grad_enabled() and query.requires_grad:
        raise NotServed("No gradient goes through the daemons. Call the model within torch.no_grad().")
    if not isinstance(mask, CheckedMask):
        raise NotServed(
            f"`{name}` attends with {'no mask' if mask is None else 'a mask of its own, or the caller`s'}: which "
            "tokens its queries see cannot be told. Pass a 2D attention_mask; if you did, its architecture cannot "
            "be served."
        )
    if is_causal is False:
        raise NotServed(f"`{name}` attends to later tokens (is_causal=False). The daemons serve causal attention.")
    return mask
