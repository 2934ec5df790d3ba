# SPDX-License-Identifier: Apache-2.0

"""The keys of a configuration, and the defaults of transformers' own classes, in release 5.24."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dcp_attention.errors import InvalidModel

_MISSING: dict[tuple[str, str], float] = {
    ("gemma3_text", "num_hidden_layers"): 26,
    ("gemma3_text", "num_attention_heads"): 8,
    ("gemma2", "head_dim"): 256,
    ("gemma3_text", "head_dim"): 256,
    ("gemma2", "attn_logit_softcapping"): 50,
    ("gemma2", "query_pre_attn_scalar"): 256,
    ("gemma3_text", "query_pre_attn_scalar"): 256,
    ("glm4", "head_dim"): 128,
    ("qwen3", "head_dim"): 128,
    ("gpt_oss", "head_dim"): 64,
    ("qwen2", "num_key_value_heads"): 32,
    ("qwen3", "num_key_value_heads"): 32,
    ("gpt_oss", "num_key_value_heads"): 8,
    ("mistral", "num_key_value_heads"): 8,
    ("glm4", "num_key_value_heads"): 2,
    ("gemma2", "num_key_value_heads"): 4,
    ("gemma3_text", "num_key_value_heads"): 4,
    ("qwen3_moe", "num_key_value_heads"): 4,
    ("smollm3", "num_key_value_heads"): 4,
    ("gpt_oss", "sliding_window"): 128,
    **{
        (family, "sliding_window"): 4096
        for family in ("gemma2", "gemma3_text", "mistral", "olmo3", "qwen2", "qwen3", "qwen3_moe", "smollm3")
    },
    ("qwen2", "max_window_layers"): 28,
    ("qwen3", "max_window_layers"): 28,
}


class Fields:
    """The keys of a configuration, or of a part of it, taken by their names; ``None`` for a key that is missing or
    null.
    """

    def __init__(self, values: Mapping[str, Any], file: str, path: str = "") -> None:
        self._values = values
        self._file = file
        self._path = path
        self.family = ""

    def error(self, name: str, message: str) -> InvalidModel:
        """An error about a key."""
        return InvalidModel(f"{self._file}: `{self._path}{name}` {message}")

    def has(self, name: str) -> bool:
        """Whether the key exists, null or not."""
        return name in self._values

    def _value(self, name: str) -> Any:
        return self._values[name] if name in self._values else _MISSING.get((self.family, name))

    def integer(self, name: str, limits: range) -> int | None:
        """A whole number within limits."""
        value = self._value(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or value not in limits:
            raise self.error(
                name, f"is `{value}`, not a whole number in {limits.start}...{limits.stop - 1}; correct it."
            )
        return value

    def number(self, name: str) -> float | None:
        """A finite number."""
        value = self._value(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise self.error(name, f"is `{value}`, not a finite number; correct it.")
        return float(value)

    def flag(self, name: str) -> bool | None:
        """True or false."""
        value = self._values.get(name)
        if value is not None and not isinstance(value, bool):
            raise self.error(name, f"is `{value}`, not true or false; correct it.")
        return value

    def text(self, name: str) -> str | None:
        """A text; a dtype of torch by its name."""
        value = self._values.get(name)
        return None if value is None else str(value).removeprefix("torch.")

    def items(self, name: str) -> list[Any] | None:
        """A list."""
        value = self._values.get(name)
        if value is not None and not isinstance(value, (list, tuple)):
            raise self.error(name, f"is `{value}`, not a list; correct it.")
        return None if value is None else list(value)

    def fields(self, name: str) -> Fields | None:
        """A mapping."""
        value = self._values.get(name)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise self.error(name, "is not a mapping of keys to values; correct it.")
        return Fields(value, self._file, f"{self._path}{name}.")

    def required(self, value: Any, name: str, remedy: str) -> Any:
        """A value that must be there."""
        if value is None:
            raise self.error(name, f"is missing; {remedy}.")
        return value
