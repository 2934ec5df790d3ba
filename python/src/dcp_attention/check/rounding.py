# SPDX-License-Identifier: Apache-2.0

"""The model's own cache, of keys and values that are rounded as a cache of the daemons rounds them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers import DynamicCache

from dcp_attention._client.scaled import rounded

if TYPE_CHECKING:
    from dcp_attention import CacheFormat


class RoundingCache(DynamicCache):
    """What the daemons' caches of a format do to a model, computed by the model's own attention."""

    def __init__(self, kv_format: CacheFormat) -> None:
        super().__init__()
        self._format = kv_format

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Takes rounded keys and values."""
        keys, values = self._rounded(key_states, are_keys=True), self._rounded(value_states, are_keys=False)
        return super().update(keys, values, layer_idx, *args, **kwargs)

    def _rounded(self, rows: torch.Tensor, *, are_keys: bool) -> torch.Tensor:
        numbers = rounded(rows.detach().float().cpu().contiguous().numpy(), self._format, are_keys=are_keys)
        return torch.from_numpy(numbers).to(rows.device, rows.dtype)
