# SPDX-License-Identifier: Apache-2.0

"""Queries, keys and values as callers have them, made ready for the wire without a needless copy."""

from __future__ import annotations

import sys
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from dcp_attention import dlpack
from dcp_attention.errors import InvalidRequest
from dcp_attention.model import DType

Tensor: TypeAlias = Any
"""A numpy array, a torch tensor or anything with ``__dlpack__``, in f32, f16 or bf16."""

_DTYPES: dict[Any, DType] = {
    np.dtype(np.float32): DType.F32,
    np.dtype(np.float16): DType.F16,
    np.dtype(np.uint16): DType.BF16,
}


class Rows(NamedTuple):
    """Rows of a step's tokens: an array ``[tokens, heads, dim]`` of any strides, in which bf16 is u16."""

    array: npt.NDArray[Any]
    dtype: DType

    def head_major(self, *, keeps: bool = False) -> npt.NDArray[Any]:
        """The rows as the wire has them, ``[heads, tokens, dim]``, contiguous.

        Args:
            keeps: Whether the caller of the client may change its memory afterwards while this is still needed.
        """
        view = self.array.transpose(1, 0, 2)
        rows = np.ascontiguousarray(view)
        return rows.copy() if keeps and (rows is view or rows.base is not None) else rows


def rows(tensor: Tensor, name: str, tokens: int, heads: int, dim: int) -> Rows:
    """Takes a tensor that has to be ``[tokens, heads, dim]``.

    Args:
        tensor: What the caller gave.
        name: For messages: queries, keys, values.
        tokens: How many the step has.
        heads: Of the layer.
        dim: Of the layer.

    Raises:
        InvalidRequest: It is of another shape or dtype, with both.
    """
    array = _array(tensor, name)
    dtype = _DTYPES.get(array.dtype)
    if dtype is None:
        if array.dtype.name != "bfloat16":
            raise InvalidRequest(f"The {name} are {array.dtype}; convert them to f32, f16 or bf16.")
        array, dtype = array.view(np.uint16), DType.BF16
    if array.shape != (tokens, heads, dim):
        raise InvalidRequest(
            f"The {name} are {list(array.shape)}, but the step and its layer need "
            f"[{tokens}, {heads}, {dim}]; correct the "
            "tensors."
        )
    return Rows(array, dtype)


def _array(tensor: Tensor, name: str) -> npt.NDArray[Any]:
    if isinstance(tensor, np.ndarray):
        return tensor
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(tensor, torch.Tensor):
        return torch_array(torch, tensor)
    if hasattr(tensor, "__dlpack__"):
        return dlpack.as_array(tensor)
    if hasattr(tensor, "__array__"):
        return np.asarray(tensor)
    raise InvalidRequest(
        f"The {name} are of {type(tensor).__name__}, which is not a tensor; pass a numpy array, a torch tensor or "
        "anything with __dlpack__."
    )


def torch_array(torch: Any, tensor: Any) -> npt.NDArray[Any]:
    """A torch tensor as an array, over the same memory if that is the processor's; bf16 as u16, since numpy has none.

    Args:
        torch: The module, which this package does not import.
        tensor: Of any shape, strides and device.
    """
    if tensor.dtype is torch.bfloat16:
        bits: npt.NDArray[Any] = tensor.view(torch.int16).numpy(force=True)
        return bits.view(np.uint16)
    array: npt.NDArray[Any] = tensor.numpy(force=True)  # detached, and copied from another device
    return array


def stored(numbers: npt.NDArray[Any], dtype: DType) -> npt.NDArray[Any]:
    """Keys or values of a cache in a dtype for callers: bf16 as in ``ml_dtypes``, if that is installed."""
    if dtype is not DType.BF16:
        return numbers
    try:
        import ml_dtypes
    except ImportError:
        return numbers
    return numbers.view(ml_dtypes.bfloat16)
