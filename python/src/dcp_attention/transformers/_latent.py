# SPDX-License-Identifier: Apache-2.0

"""Latent attention in its absorbed form: one small latent is stored for each token instead of all heads' keys and
values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from dcp_attention.transformers._attention import AttentionCall


@dataclass(frozen=True)
class Latents:
    """The matrices that turn a layer's attention over heads into one over latents.

    A head's key is ``[W_UK c, r]`` and its value ``W_UV c``, with c the token's latent and r its rotated dimensions,
    which all heads share. So ``q . k = (W_UK^T q_nope) . c + q_rot . r``, and the output is W_UV times the weighted
    sum of latents.

    Attributes:
        up_keys: W_UK, ``[H, nope, rank]``.
        up_values: W_UV, ``[H, Dv, rank]``.
    """

    up_keys: torch.Tensor
    up_values: torch.Tensor

    @staticmethod
    def of(call: AttentionCall) -> Latents | None:
        """The latents of a call, or ``None`` if its layer has none or derives keys from them in another way."""
        latent, rotated, module = call.update.keys, call.update.values, call.module
        weight = getattr(getattr(module, "kv_b_proj", None), "weight", None)
        if weight is None or getattr(module.kv_b_proj, "bias", None) is not None or latent.shape[1] != 1:
            return None
        heads, nope = call.query.shape[1], call.query.shape[-1] - rotated.shape[-1]
        if weight.shape != (heads * (nope + call.value.shape[-1]), latent.shape[-1]) or call.key.shape[1] != heads:
            return None
        up = weight.detach().view(heads, -1, latent.shape[-1])
        found = Latents(up[:, :nope], up[:, nope:])
        # The module made keys and values of these latents: the weights must give the same ones.
        keys = torch.einsum("hdr,btr->bhtd", found.up_keys.float(), latent[:, 0].float())
        values = torch.einsum("hdr,btr->bhtd", found.up_values.float(), latent[:, 0].float())
        made = torch.cat([keys, rotated.float().expand(-1, heads, -1, -1)], -1)
        tolerance = 8 * torch.finfo(latent.dtype).eps
        for ours, theirs in ((made, call.key), (values, call.value)):
            if (ours - theirs.float()).abs().max() > tolerance * (1 + theirs.float().abs().max()):
                return None
        return found

    def queries(self, query: torch.Tensor) -> torch.Tensor:
        """``[B, H, T, nope + rope]`` to ``[B, H, T, rank + rope]``, f32: rounding them again would be the model's
        only loss.
        """
        nope = self.up_keys.shape[1]
        absorbed = torch.matmul(query[..., :nope].float(), self.up_keys.float())
        return torch.cat([absorbed, query[..., nope:].float()], -1)

    def outputs(self, out: torch.Tensor) -> torch.Tensor:
        """``[B, T, H, rank]`` to ``[B, T, H, Dv]``, f32."""
        return torch.einsum("bthr,hdr->bthd", out.float(), self.up_values.float())

    @staticmethod
    def keys(call: AttentionCall) -> torch.Tensor:
        """The stored keys: ``[B, 1, T, rank + rope]``; the values are its first dimensions."""
        return torch.cat([call.update.keys, call.update.values], -1)
