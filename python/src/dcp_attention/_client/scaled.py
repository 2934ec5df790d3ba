# SPDX-License-Identifier: Apache-2.0

"""Rows as a KV cache rounds them, and bytes with scales as ``int8`` and ``fp8`` keep them.

The same operations on Float32 as the daemons' own, so that the bits are theirs; see *Byte formats*.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from dcp_attention.model import CacheFormat, DType

Floats: TypeAlias = "npt.NDArray[np.float32]"

# A bit for each dimension of a key. They are in stores: a sign never changes.
_SIGN_WORDS = """
05FDF179 6CC6BE18 AC0504A5 4BA71AB7 28398F9F DAE85D09
F6466D5F 0B8E90E9 651011CB 4E6980EE B822B63B C4E08E67
D47A9A78 28B58AB4 31BFA6AF A02BFF2F 06D002DB 1414F6B5
"""
_SIGNS = np.array(
    [-1 if int(word, 16) >> bit & 1 else 1 for word in _SIGN_WORDS.split() for bit in range(32)], np.float32
)
_SCALE_MIN = np.float32(2.0**-60)
# The bits of a word that name a dimension.
_DIM_MASK = np.uint32(0x3FF)
# What keeps the largest finite once it is read.
_INT8_SCALE_MAX = np.float32(1.0078125 * 2.0**121)
_FP8_SCALE_MAX = np.float32(1.142578125 * 2.0**119)


def _e4m3(code: int) -> float:
    exponent, mantissa = code >> 3 & 15, code & 7
    if code & 0x7F == 0x7F:
        return float("nan")
    magnitude = mantissa * 2.0**-9 if exponent == 0 else (8 + mantissa) * 2.0 ** (exponent - 10)
    return -magnitude if code & 0x80 else magnitude


_E4M3 = np.array([_e4m3(code) for code in range(256)], np.float32)


@dataclass(frozen=True, slots=True)
class ScaledRows:
    """Rows in bytes.

    Attributes:
        codes: ``[..., dim]``: u8, of ``int8`` two's complement, of ``fp8`` e4m3.
        scales: ``[...]``: what a row's numbers are multiplied by.
        words: ``[...]``: of keys of ``int8`` the number of a dimension that stands out, as the bits of a Float32 whose
            lowest 10 are the dimension; 0 is none.
    """

    codes: npt.NDArray[np.uint8]
    scales: Floats
    words: npt.NDArray[np.uint32] | None = None


def words_dims(words: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """The dimension that each word names."""
    dims: npt.NDArray[np.uint32] = words & _DIM_MASK
    return dims


def scaled(rows: Floats, kv_format: CacheFormat, *, are_keys: bool) -> ScaledRows:
    """Finite rows ``[..., dim]`` in the form in which a cache of ``int8`` or ``fp8`` keeps them."""
    assert kv_format.has_scales
    if kv_format is CacheFormat.FP8:
        return _to_fp8(rows)
    if not are_keys:
        return _to_int8(rows)
    made = _keys_to_int8(rows.reshape(-1, rows.shape[-1]))
    assert made.words is not None
    shape = rows.shape[:-1]
    return ScaledRows(made.codes.reshape(rows.shape), made.scales.reshape(shape), made.words.reshape(shape))


def numbers(rows: ScaledRows, kv_format: CacheFormat, *, are_rotated: bool) -> Floats:
    """The numbers of such rows as a cache gives them back.

    Args:
        rows: Codes and scales.
        kv_format: ``int8`` or ``fp8``.
        are_rotated: That is keys of ``int8``, as a cache keeps them; words are not.
    """
    assert kv_format.has_scales
    codes = _E4M3[rows.codes] if kv_format is CacheFormat.FP8 else rows.codes.view(np.int8).astype(np.float32)
    with np.errstate(invalid="ignore"):
        found: Floats = codes * rows.scales[..., None]
    if are_rotated and kv_format is CacheFormat.INT8:
        found = _rotated_back(found)
    if rows.words is not None and found.size:
        dims = words_dims(rows.words).astype(np.intp)[..., None]
        values = (rows.words & ~_DIM_MASK).view(np.float32)[..., None]
        named = np.take_along_axis(found, dims, -1)
        np.put_along_axis(found, dims, np.where(rows.words[..., None] != 0, named + values, named), -1)
    return found


def rounded(rows: Floats, kv_format: CacheFormat, *, are_keys: bool) -> Floats:
    """Finite rows ``[..., dim]`` as a cache gives them back, in f32."""
    if kv_format.has_scales:
        return numbers(scaled(rows, kv_format, are_keys=are_keys), kv_format, are_rotated=are_keys)
    return widened(narrowed(rows, kv_format.row_type), kv_format.row_type)


def narrowed(rows: Floats, dtype: DType) -> npt.NDArray[Any]:
    """Numbers rounded to a dtype, ties to even; bf16 as its bits in u16. Infinite beyond the largest."""
    if dtype is DType.F32:
        return rows
    if dtype is DType.F16:
        with np.errstate(over="ignore"):
            return rows.astype(np.float16)
    bits = np.ascontiguousarray(rows).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def widened(rows: npt.NDArray[Any], dtype: DType) -> Floats:
    """Numbers of a dtype in f32, exactly; bf16 from its bits in u16, or from ``ml_dtypes``."""
    if dtype is DType.BF16:
        return (rows.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return rows.astype(np.float32)


def _magnitudes(rows: Floats) -> Floats:
    found: Floats = np.abs(rows).max(-1, initial=0)
    return found


def _largest_scales(most: Floats, largest: float, high: np.float32) -> Floats:
    """The largest numbers over that of the format, in 12 bits."""
    bits = (most / np.float32(largest)).view(np.uint32)
    found: Floats = np.clip(((bits + 0x800) & 0xFFFFF000).view(np.float32), _SCALE_MIN, high)
    return found


def _to_int8(rows: Floats) -> ScaledRows:
    scales = _largest_scales(_magnitudes(rows), 127, _INT8_SCALE_MAX)
    numbers = np.clip(np.rint(rows * (np.float32(1) / scales)[..., None]), -127, 127)
    return ScaledRows(numbers.astype(np.int8).view(np.uint8), scales)


def _keys_to_int8(rows: Floats) -> ScaledRows:
    """Keys ``[count, dim]`` in a form that becomes itself when it is read back and converted again."""
    made = _keys_once(rows)
    assert made.words is not None
    pending = np.flatnonzero(made.words)
    for _ in range(8):
        if not pending.size:
            return made
        some = ScaledRows(made.codes[pending], made.scales[pending], made.words[pending])
        again = _keys_once(numbers(some, CacheFormat.INT8, are_rotated=True))
        assert again.words is not None
        differs = (again.codes != some.codes).any(-1) | (again.scales != some.scales) | (again.words != some.words)
        made.codes[pending], made.scales[pending], made.words[pending] = again.codes, again.scales, again.words
        lost = pending[differs & (again.words == 0)]
        _without_words(made, rows, lost)
        pending = pending[differs & (again.words != 0)]
    _without_words(made, rows, pending)
    return made


def _without_words(made: ScaledRows, rows: Floats, some: npt.NDArray[np.intp]) -> None:
    assert made.words is not None
    if some.size:
        plain = _to_int8(_rotated(rows[some]))
        made.codes[some], made.scales[some], made.words[some] = plain.codes, plain.scales, 0


def _keys_once(rows: Floats) -> ScaledRows:
    """With a word where that makes the largest rotated number less than 3/4 of what it was.

    A row on the grid of its scale was read back, and had none.
    """
    rotated = _rotated(rows)
    plain = _to_int8(rotated)
    most, largest = _magnitudes(rotated), _magnitudes(rows)
    inverse = (np.float32(1) / plain.scales)[..., None]
    is_on_grid = (np.abs(rotated * inverse - plain.codes.view(np.int8).astype(np.float32)) < 2.0**-6).all(-1)
    size = 1 << (rows.shape[-1].bit_length() - 1)
    may = (plain.scales > 2 * _SCALE_MIN) & ~is_on_grid
    if size == rows.shape[-1]:
        may &= largest * _unit(size) > np.float32(0.25) * most
    dims = np.abs(rows).argmax(-1)
    at = np.arange(len(rows)), dims
    parts = ((rows[at].view(np.uint32) + 0x20000) & 0xFFFC0000).view(np.float32)
    rest = rows.copy()
    rest[at] -= parts
    rotated = _rotated(rest)
    apart = _to_int8(rotated)
    taken = may & (_magnitudes(rotated) < np.float32(0.75) * most)
    return ScaledRows(
        np.where(taken[..., None], apart.codes, plain.codes),
        np.where(taken, apart.scales, plain.scales),
        np.where(taken, parts.view(np.uint32) | dims.astype(np.uint32), np.uint32(0)),
    )


def _to_fp8(rows: Floats) -> ScaledRows:
    """What is e4m3 times a power of two stays what it is; of any other row the largest number becomes 448."""
    most = _magnitudes(rows)
    powers = _power_scales(most)
    exact = _codes(rows, powers)
    is_exact = (_E4M3[exact] * powers[..., None] == rows).all(-1)
    scales = np.where(is_exact, powers, _largest_scales(most, 448, _FP8_SCALE_MAX))
    return ScaledRows(np.where(is_exact[..., None], exact, _codes(rows, scales)), scales)


def _power_scales(most: Floats) -> Floats:
    """The smallest powers of two of which the largest numbers are at most 448 times, once rounded."""
    _, exponents = np.frexp(most)  # most is less than 2^exponents
    below = np.ldexp(np.float32(1), exponents - 9).astype(np.float32)
    powers = np.where(most <= np.float32(464) * below, below, 2 * below)
    return np.clip(np.where(most > 0, powers, 0), _SCALE_MIN, np.float32(2.0**119)).astype(np.float32)


def _codes(rows: Floats, scales: Floats) -> npt.NDArray[np.uint8]:
    values = np.abs(rows * (np.float32(1) / scales)[..., None])
    # Three bits behind the first one; below 2^-6 multiples of 2^-9, which go on as the codes above do.
    exponents = np.maximum(values.view(np.uint32) >> 23, 121)
    units = np.rint(values / ((exponents - 3) << 23).view(np.float32)).astype(np.uint32)
    codes = np.minimum((exponents - 121) * 8 + units, 0x7E).astype(np.uint8)
    found: npt.NDArray[np.uint8] = codes | np.where(np.signbit(rows), np.uint8(0x80), np.uint8(0))
    return found


def _rotated(rows: Floats) -> Floats:
    dim = rows.shape[-1]
    size = 1 << (dim.bit_length() - 1)
    found = rows * _SIGNS[:dim]
    _transform(found[..., :size])
    if size < dim:
        _transform(found[..., dim - size :])
    return found


def _rotated_back(rows: Floats) -> Floats:
    dim = rows.shape[-1]
    size = 1 << (dim.bit_length() - 1)
    found: Floats = rows.copy()
    if size < dim:
        _transform(found[..., dim - size :])
    _transform(found[..., :size])
    found *= _SIGNS[:dim]
    return found


def _transform(rows: Floats) -> None:
    """A Walsh-Hadamard transform in place: sums to the first half, differences to the second, level by level."""
    size = rows.shape[-1]
    levels = size.bit_length() - 1
    half = size // 2
    for _ in range(levels):
        a, b = rows[..., ::2].copy(), rows[..., 1::2].copy()
        rows[..., :half] = a + b
        rows[..., half:] = a - b
    rows *= _unit(size)


def _unit(size: int) -> np.float32:
    """1 / sqrt(size)."""
    levels = size.bit_length() - 1
    unit: np.float32 = np.float32(np.sqrt(np.float32(0.5)) if levels % 2 else 1) / np.float32(1 << levels // 2)
    return unit
