# SPDX-License-Identifier: Apache-2.0

"""The keys of ``kv_connector_extra_config``."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, fields
from typing import Any

from dcp_attention.vllm.revision import model_revision
from dcp_attention.vllm.versions import Unsupported

# Of a scope, which has 255 bytes at most, 65 are a request's cache_salt.
_SCOPE_BYTES_MAX = 255 - 65


@dataclass(frozen=True)
class Options:
    """The options of a connector.

    Attributes:
        endpoint: Of the coordinator; ``None`` is ``DCP_COORDINATOR``, else the default of
            `dcp_attention.Cluster.connect`.
        model: The model's name in the cluster; ``None`` is the last part of vLLM's. A name stands for one description.
        revision: What identifies the weights; ``None`` is the commit of the hub's that they are from, where vLLM knows
            it, else a digest of a sample of their files.
        kv_format: How the cluster keeps keys and values: ``bf16``, ``f16``, ``f32``, ``int8`` or ``fp8``; ``None`` is
            the model's dtype.
        scope: Who finds each other's prefixes: those that state the same one; at most 190 bytes. A request's
            ``cache_salt`` narrows it.
        retry_for: Seconds for which an outage of daemons is waited out.
    """

    endpoint: str | None = None
    model: str | None = None
    revision: str | None = None
    kv_format: str | None = None
    scope: str = ""
    retry_for: float = 60

    @staticmethod
    def of(vllm_config: Any) -> Options:
        """The options that a vLLM was started with.

        Raises:
            Unsupported: There is no such option, or a scope leaves no room for a request's.
        """
        given = dict(vllm_config.kv_transfer_config.kv_connector_extra_config)
        known = [field.name for field in fields(Options)]
        for name in given:
            if name not in known:
                raise Unsupported(
                    f"`{name}` in kv_connector_extra_config is no option of DCPConnector; it has {', '.join(known)}."
                )
        options = Options(**given)
        size = len(options.scope.encode())
        if size > _SCOPE_BYTES_MAX:
            raise Unsupported(
                f"`scope` in kv_connector_extra_config has {size} bytes, and {_SCOPE_BYTES_MAX} at most: the cluster "
                "takes 255, and a request's cache_salt adds 65. Choose a shorter one."
            )
        return options

    def model_name(self, vllm_config: Any) -> str:
        """The model's name in the cluster."""
        return self.model or os.path.basename(str(vllm_config.model_config.model).rstrip("/"))

    def model_revision(self, vllm_config: Any) -> str:
        """The model's revision in the cluster; see `revision.model_revision`."""
        return model_revision(vllm_config, self.revision)

    def request_scope(self, salt: str | None) -> str:
        """The scope of a request with a ``cache_salt``, which may be longer than scopes are."""
        return f"{self.scope}/{hashlib.sha256(salt.encode()).hexdigest()}" if salt else self.scope
