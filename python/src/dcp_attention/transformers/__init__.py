# SPDX-License-Identifier: Apache-2.0

"""Hugging Face transformers on the daemons: `DCPCache`, and ``attn_implementation="dcp"``, which importing this
registers.

See the article *Transformers* for what is served, what is refused and when it pays.
"""

# ruff: noqa: E402 - the release is checked before a name that another one has not is imported.

from dcp_attention.transformers._versions import require_served

require_served()

from transformers import AttentionInterface, AttentionMaskInterface

from dcp_attention.transformers._attention import dcp_attention
from dcp_attention.transformers._look import ServedModel, cache_argument, served
from dcp_attention.transformers._masks import dcp_mask
from dcp_attention.transformers.cache import DCPCache
from dcp_attention.transformers.errors import NotServed

AttentionInterface.register("dcp", dcp_attention)
AttentionMaskInterface.register("dcp", dcp_mask)

__all__ = ["DCPCache", "NotServed", "ServedModel", "cache_argument", "dcp_attention", "dcp_mask", "served"]
