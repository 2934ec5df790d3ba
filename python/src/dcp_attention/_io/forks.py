# SPDX-License-Identifier: Apache-2.0

"""A child process lets go of what is its parent's."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

T = TypeVar("T")

_owners: WeakKeyDictionary[Any, Callable[[Any], None]] = WeakKeyDictionary()


def in_children(owner: T, let_go: Callable[[T], None]) -> None:
    """Calls a function with an object, as long as there is one, in every child process at its start."""
    _owners[owner] = let_go


def _forked() -> None:
    for owner, let_go in _owners.items():
        let_go(owner)


os.register_at_fork(after_in_child=_forked)
