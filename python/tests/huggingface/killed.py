# SPDX-License-Identifier: Apache-2.0

"""Generates and prints each token, until it is killed."""

from __future__ import annotations

import sys
from typing import Any

from huggingface.support import generate, ids, small
from transformers.generation.streamers import BaseStreamer

from dcp_attention import Cluster
from dcp_attention.transformers import DCPCache


class Speaker(BaseStreamer):
    """Prints tokens, but the prompt."""

    def __init__(self) -> None:
        self.is_prompt = True

    def put(self, value: Any) -> None:
        """Prints a token."""
        if not self.is_prompt:
            print(int(value), flush=True)  # noqa: T201
        self.is_prompt = False

    def end(self) -> None:
        """Nothing more."""


cluster = Cluster.connect(sys.argv[1])
generate(
    small("llama"), ids(900, int(sys.argv[2])), 1000, past_key_values=DCPCache(cluster, "chat-1"), streamer=Speaker()
)
