# SPDX-License-Identifier: Apache-2.0

"""A cache's state during a forward pass."""

from __future__ import annotations


class Pass:
    """A forward pass."""

    def __init__(self, number: int, start: int, tokens: int, ids: list[list[int]] | None, commits: bool) -> None:
        self.number = number
        self.start = start  # the position of its first token, padding counted
        self.tokens = tokens
        self.ids = ids
        self.commits = commits  # whether its first step commits the tokens before it
        self.served: set[int] = set()  # layers whose keys and values are in the daemons
        self.has_padding = False
        self.is_complete = False
        self.failed = False
