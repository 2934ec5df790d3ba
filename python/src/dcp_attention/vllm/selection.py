# SPDX-License-Identifier: Apache-2.0

"""How vLLM comes to use the attention backend."""

from __future__ import annotations

from typing import Any

from vllm.config import get_current_vllm_config
from vllm.platforms.cpu import CpuPlatform
from vllm.v1.attention.backends import registry

CONNECTOR = "DCPConnector"


def register_backend(path: str) -> None:
    """Registers the backend as ``CUSTOM``, and has the CPU platform take it where DCPConnector is configured.

    vLLM's CPU platform takes no other backend than its own, whatever ``--attention-backend`` says: it only logs that it
    cannot. An override of ``CPU_ATTN`` in vLLM's registry would be for every model of every process in which the plugin
    is installed, used or not.
    """
    registry.register_backend(registry.AttentionBackendEnum.CUSTOM, path)
    if not getattr(CpuPlatform.get_attn_backend_cls, "knows_dcp", False):
        CpuPlatform.get_attn_backend_cls = classmethod(_selecting(path, CpuPlatform.get_attn_backend_cls.__func__))


def _selecting(path: str, original: Any) -> Any:
    def get_attn_backend_cls(
        cls: Any, selected_backend: Any, attn_selector_config: Any, *args: Any, **kwargs: Any
    ) -> str:
        transfer = get_current_vllm_config().kv_transfer_config
        if transfer is not None and transfer.kv_connector == CONNECTOR and not attn_selector_config.use_mla:
            return path
        chosen: str = original(cls, selected_backend, attn_selector_config, *args, **kwargs)
        return chosen

    get_attn_backend_cls.knows_dcp = True  # type: ignore[attr-defined]
    return get_attn_backend_cls
