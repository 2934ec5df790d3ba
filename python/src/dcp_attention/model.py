# SPDX-License-Identifier: Apache-2.0

"""The description of a model: the attention of each layer, and the format of the KV cache."""

from __future__ import annotations

import enum
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from dcp_attention.errors import InvalidModel

if TYPE_CHECKING:
    from collections.abc import Mapping

HEADS_MAX = 1024
KEY_DIMS = range(8, 577)
VALUE_DIMS = range(8, 513)
WINDOW_MAX = 2**32 - 1
LAYERS_MAX = 1024
REVISION_BYTES_MAX = 255


class DType(enum.IntEnum):
    """The element type of a row of numbers; the value is the byte that stands for it on the wire."""

    BF16 = 1
    F16 = 2
    F32 = 3

    @property
    def size(self) -> int:
        """Bytes of an element."""
        return 4 if self is DType.F32 else 2

    @staticmethod
    def named(name: str) -> DType:
        """The dtype of a name: ``bf16``, ``bfloat16``, ``f16``, ``float16``, ``half``, ``f32`` or ``float32``.

        Raises:
            InvalidModel: There is no such dtype here.
        """
        found = _DTYPES.get(name.removeprefix("torch."))
        if found is None:
            raise InvalidModel(f"`{name}` is no dtype of rows; use bf16, f16 or f32.")
        return found


_DTYPES = {
    "bf16": DType.BF16,
    "bfloat16": DType.BF16,
    "f16": DType.F16,
    "float16": DType.F16,
    "half": DType.F16,
    "f32": DType.F32,
    "float32": DType.F32,
}


class CacheFormat(enum.IntEnum):
    """How a KV cache keeps its numbers; the value is the byte that stands for it on the wire and in stores.

    ``INT8`` and ``FP8`` (e4m3) keep bytes, with a scale for each token and KV head: half of what bf16 takes. *Byte
    formats* says how exact they are. They need dimensions that are multiples of 4, and values of their own.
    """

    BF16 = 1
    F16 = 2
    F32 = 3
    INT8 = 4
    FP8 = 5

    @property
    def row_type(self) -> DType:
        """The dtype that keys and values are read back as: exactly the numbers in the cache, for ``INT8`` with the
        rotation of its keys undone.
        """
        return DType.F32 if self.has_scales else DType(self)

    @property
    def has_scales(self) -> bool:
        """Whether it keeps bytes with scales."""
        return self in (CacheFormat.INT8, CacheFormat.FP8)

    @property
    def has_words(self) -> bool:
        """Whether a key has a word beside its scale, with a number that stands out."""
        return self is CacheFormat.INT8

    @staticmethod
    def named(name: str) -> CacheFormat:
        """The format of a name: ``bf16``, ``f16``, ``f32``, ``int8`` or ``fp8``, or another name of the dtype that it
        keeps.

        Raises:
            InvalidModel: There is no such format.
        """
        if name in ("int8", "fp8"):
            return CacheFormat[name.upper()]
        found = _DTYPES.get(name.removeprefix("torch."))
        if found is None:
            raise InvalidModel(f"`{name}` is no cache format; use bf16, f16, f32, int8 or fp8.")
        return CacheFormat.keeping(found)

    @staticmethod
    def keeping(row_type: DType) -> CacheFormat:
        """The format that keeps rows as they are."""
        return CacheFormat(row_type)


def f32(value: float) -> float:
    """A number rounded to binary32, the format of numbers in descriptions."""
    try:
        return float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:
        return math.copysign(math.inf, value)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerAttention:
    """The attention of one kind of layer.

    Attributes:
        query_heads: Hq, over all head groups.
        kv_heads: Hkv, divides Hq.
        key_dim: Dk, even, 8...576.
        value_dim: Dv, of a value and of an output; even, 8...512. ``None`` is Dk.
        scale: Multiplies every score; ``None`` is ``1 / sqrt(Dk)``.
        softcap: c of ``c tanh(score / c)``, after the scale; ``None`` for none.
        window: How many tokens a query sees, its own counted; ``None`` for all up to its own.
        has_sinks: Whether each query head has a learned logit in its denominator.
        leading_values: Whether the values are the first Dv dimensions of the keys (latent attention): nothing is sent
            or stored for them.
    """

    query_heads: int
    kv_heads: int
    key_dim: int
    value_dim: int = None  # type: ignore[assignment]
    scale: float = None  # type: ignore[assignment]
    softcap: float | None = None
    window: int | None = None
    has_sinks: bool = False
    leading_values: bool = False

    def __post_init__(self) -> None:
        if self.value_dim is None:
            object.__setattr__(self, "value_dim", self.key_dim)
        scale = 1 / math.sqrt(self.key_dim) if self.scale is None and self.key_dim > 0 else self.scale or 0
        object.__setattr__(self, "scale", f32(scale))
        if self.softcap is not None:
            object.__setattr__(self, "softcap", f32(self.softcap))
        self._check()

    def _check(self) -> None:
        if not 1 <= self.query_heads <= HEADS_MAX:
            raise InvalidModel(
                f"{self.query_heads} query heads are outside 1...{HEADS_MAX}; correct the number of heads."
            )
        if not 1 <= self.kv_heads <= self.query_heads or self.query_heads % self.kv_heads:
            raise InvalidModel(
                f"{self.kv_heads} KV heads do not divide {self.query_heads} query heads; grouped-query attention needs "
                "a whole number of query heads for each KV head. Correct one of the two."
            )
        for name, dim, limits in (("key", self.key_dim, KEY_DIMS), ("value", self.value_dim, VALUE_DIMS)):
            if dim not in limits or dim % 2:
                raise InvalidModel(
                    f"The {name} head dimension {dim} is not an even number in {limits.start}...{limits.stop - 1}; pad "
                    "the heads with zeros."
                )
        if self.leading_values and self.value_dim > self.key_dim:
            raise InvalidModel(
                f"The values are the first {self.value_dim} dimensions of keys that have {self.key_dim}; correct "
                "value_dim."
            )
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise InvalidModel(f"The scale {self.scale} is not a positive finite number; correct it.")
        if self.softcap is not None and not (math.isfinite(self.softcap) and self.softcap > 0):
            raise InvalidModel(f"The soft cap {self.softcap} is not a positive finite number; leave it out for none.")
        if self.window is not None and not 1 <= self.window <= WINDOW_MAX:
            raise InvalidModel(f"A window of {self.window} tokens is outside 1...{WINDOW_MAX}; leave it out for none.")

    @property
    def own_value_dim(self) -> int:
        """Numbers of one token and KV head that are sent and stored for its value: Dv, or 0 where the key holds
        them.
        """
        return 0 if self.leading_values else self.value_dim


@dataclass(frozen=True)
class ModelDescription:
    """The properties of a model that a KV cache and its kernels depend on.

    Attributes:
        layers: One for each layer; those that are alike may be one object.
        kv_format: How the cache keeps keys and values; they are rounded to it once, when a step brings them.
        sinks: For each layer one logit for each query head where it has sinks, else none. Empty for no sinks at all.
        revision: Whatever identifies weights and rotary settings, such as a checkpoint's hash; at most 255 bytes.
    """

    layers: tuple[LayerAttention, ...]
    kv_format: CacheFormat = CacheFormat.BF16
    sinks: tuple[tuple[float, ...], ...] = ()
    revision: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        if not 1 <= len(self.layers) <= LAYERS_MAX:
            raise InvalidModel(f"{len(self.layers)} layers are outside 1...{LAYERS_MAX}; correct the model's `layers`.")
        sinks = self.sinks or ((),) * len(self.layers)
        object.__setattr__(self, "sinks", tuple(tuple(f32(x) for x in logits) for logits in sinks))
        self._check_sinks()
        # A dtype of rows has some of the same names and numbers, and int8 and fp8 are none of its values.
        if not isinstance(self.kv_format, CacheFormat):
            raise InvalidModel(f"The cache format is {self.kv_format!r}; give a CacheFormat, such as CacheFormat.BF16.")
        if self.kv_format.has_scales:
            self._check_bytes()
        try:
            size = 1 if self.revision is None else len(self.revision.encode())
        except UnicodeEncodeError:
            raise InvalidModel(f"The revision {self.revision!r} is no text that UTF-8 can hold; correct it.") from None
        if not 1 <= size <= REVISION_BYTES_MAX:
            raise InvalidModel(
                f"A revision of {size} bytes is outside 1...{REVISION_BYTES_MAX}; give a hash of the weights and "
                "settings, or none."
            )

    def _check_bytes(self) -> None:
        name = self.kv_format.name.lower()
        for index, layer in enumerate(self.layers):
            if layer.leading_values:
                raise InvalidModel(
                    f"A KV cache of {name} cannot keep layer {index}, whose values are the first {layer.value_dim} "
                    "dimensions of its keys (latent attention): it needs values of their own; choose bf16, f16 or f32 "
                    "as the cache format."
                )
            if layer.key_dim % 4 or layer.value_dim % 4:
                raise InvalidModel(
                    f"A KV cache of {name} cannot keep layer {index}, of dimensions {layer.key_dim} and "
                    f"{layer.value_dim}: it needs multiples of 4. Pad the heads with zeros, or choose bf16, f16 or f32 "
                    "as the cache format."
                )

    def _check_sinks(self) -> None:
        if len(self.sinks) != len(self.layers):
            raise InvalidModel(f"Sinks of {len(self.sinks)} layers are no model's of {len(self.layers)}.")
        for index, (layer, logits) in enumerate(zip(self.layers, self.sinks, strict=True)):
            expected = layer.query_heads if layer.has_sinks else 0
            if len(logits) != expected:
                raise InvalidModel(
                    f"Layer {index} has {len(logits)} sinks, its attention {expected}; give one for each query head of "
                    "a layer with sinks."
                )
            if not all(map(math.isfinite, logits)):
                raise InvalidModel(f"A sink of layer {index} is NaN or infinite; correct the model's weights.")

    @staticmethod
    def uniform(
        layers: int,
        *,
        query_heads: int,
        kv_heads: int,
        key_dim: int,
        value_dim: int | None = None,
        scale: float | None = None,
        softcap: float | None = None,
        window: int | None = None,
        kv_format: CacheFormat | str = CacheFormat.BF16,
        revision: str | None = None,
    ) -> ModelDescription:
        """A model whose layers are all alike, without sinks. Arguments as of `LayerAttention`.

        Raises:
            InvalidModel: With the value, the limit and the remedy.
        """
        optional = {"value_dim": value_dim, "scale": scale}
        kind = LayerAttention(
            query_heads=query_heads,
            kv_heads=kv_heads,
            key_dim=key_dim,
            softcap=softcap,
            window=window,
            **{name: value for name, value in optional.items() if value is not None},  # type: ignore[arg-type]
        )
        format = CacheFormat.named(kv_format) if isinstance(kv_format, str) else kv_format
        return ModelDescription((kind,) * max(0, min(layers, LAYERS_MAX + 1)), format, revision=revision)

    @staticmethod
    def from_transformers(
        config: Any,
        *,
        kv_format: CacheFormat | str | None = None,
        sinks: Mapping[int, Sequence[float]] | None = None,
        revision: str | None = None,
    ) -> ModelDescription:
        """The description of a model of Hugging Face transformers, as `dcpctl model add --config` reads it.

        Args:
            config: A ``PretrainedConfig``, its ``to_dict()``, or the path of a ``config.json``. A key means what its
                family's code makes of it, so families are known by ``model_type``; see *Models*.
            kv_format: How the cache keeps keys and values; ``None`` is the dtype of the weights, or bf16 where the
                config has none.
            sinks: For gpt-oss, whose sinks are weights: the logits of each layer, Hq numbers.
            revision: What identifies the weights and rotary settings.

        Raises:
            InvalidModel: For what cannot be served, naming it, and for values that are missing or wrong.
        """
        from dcp_attention.huggingface import describe

        format = CacheFormat.named(kv_format) if isinstance(kv_format, str) else kv_format
        return describe(config, kv_format=format, sinks=sinks or {}, revision=revision)

    @cached_property
    def kinds(self) -> tuple[LayerAttention, ...]:
        """The different kinds of layers, in the order of their first ones."""
        return tuple(dict.fromkeys(self.layers))

    @cached_property
    def runs(self) -> tuple[tuple[int, int], ...]:
        """The order of layers: kinds, by their index among `kinds`, and how many layers of it follow each other."""
        indices = {kind: index for index, kind in enumerate(self.kinds)}
        runs: list[tuple[int, int]] = []
        for layer in self.layers:
            kind = indices[layer]
            if runs and runs[-1][0] == kind:
                runs[-1] = (kind, runs[-1][1] + 1)
            else:
                runs.append((kind, 1))
        return tuple(runs)

    @property
    def row_bytes(self) -> int:
        """Bytes of keys and values of one token in all layers, over all ranks, as they are read back."""
        return self._numbers * self.kv_format.row_type.size

    @property
    def kept_bytes(self) -> int:
        """The same as caches keep them.

        Of ``INT8`` and ``FP8`` that is a byte for each number, four for each scale, and four for each word of ``INT8``.
        """
        if not self.kv_format.has_scales:
            return self.row_bytes
        beside = 3 if self.kv_format.has_words else 2
        return self._numbers + 4 * sum(beside * layer.kv_heads for layer in self.layers)

    @property
    def _numbers(self) -> int:
        return sum(layer.kv_heads * (layer.key_dim + layer.own_value_dim) for layer in self.layers)
