# SPDX-License-Identifier: Apache-2.0

"""vLLM with its KV cache in a cluster: a KV connector, and the attention backend that belongs to it.

The package is a plugin of vLLM's (entry point ``vllm.general_plugins``): where it is installed, two options use it::

    vllm serve MODEL --no-enable-prefix-caching \
        --kv-transfer-config '{"kv_connector": "DCPConnector", "kv_role": "kv_both"}'

Without them vLLM runs as if it were not there. Both classes are imported when vLLM asks for them, after its version has
been compared with those that they were tried with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dcp_attention.vllm.versions import TRIED, Unsupported, is_tried, require_tried

if TYPE_CHECKING:
    from dcp_attention.vllm.backend import DCPAttentionBackend
    from dcp_attention.vllm.connector import DCPConnector

__all__ = ["TRIED", "DCPAttentionBackend", "DCPConnector", "Unsupported", "register"]


def register() -> None:
    """The entry point that vLLM calls in each of its processes: registers both classes by name, and imports neither."""
    from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory

    if "DCPConnector" not in KVConnectorFactory._registry:
        KVConnectorFactory.register_connector("DCPConnector", __name__, "DCPConnector")
    if is_tried():
        from dcp_attention.vllm.selection import register_backend

        register_backend(f"{__name__}.DCPAttentionBackend")


def __getattr__(name: str) -> Any:
    if name == "DCPConnector":
        require_tried()
        from dcp_attention.vllm.connector import DCPConnector

        return DCPConnector
    if name == "DCPAttentionBackend":
        require_tried()
        from dcp_attention.vllm.backend import DCPAttentionBackend

        return DCPAttentionBackend
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
