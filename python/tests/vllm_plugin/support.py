# SPDX-License-Identifier: Apache-2.0

"""vLLM's configuration for a model, without a vLLM."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from vllm import EngineArgs

TRANSFER = {"kv_connector": "DCPConnector", "kv_role": "kv_both"}


def configured(model: Path, **options: Any) -> Any:
    """The configuration; takes back what vLLM writes into this process's environment, for workers."""
    before = dict(os.environ)
    options = {"enable_prefix_caching": False, "kv_transfer_config": TRANSFER, "enforce_eager": True} | options
    try:
        return EngineArgs(model=str(model), skip_tokenizer_init=True, **options).create_engine_config()
    finally:
        os.environ.clear()
        os.environ.update(before)
