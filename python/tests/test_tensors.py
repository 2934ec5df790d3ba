# SPDX-License-Identifier: Apache-2.0

"""Tensors of several libraries, over the memory that they have."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from dcp_support import bf16

from dcp_attention import InvalidRequest, dlpack, tensors
from dcp_attention.model import DType


def rows(tensor: Any) -> tensors.Rows:
    return tensors.rows(tensor, "keys", 5, 3, 8)


@pytest.mark.parametrize(
    ("dtype", "expected"), [("float32", DType.F32), ("float16", DType.F16), ("uint16", DType.BF16)]
)
def test_numpy_arrays_are_taken_as_they_are(dtype: str, expected: DType) -> None:
    array = np.arange(120).astype(dtype).reshape(5, 3, 8)
    taken = rows(array)
    assert taken.dtype is expected
    assert np.shares_memory(taken.array, array)


def test_bf16_of_ml_dtypes_has_the_same_bits() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    numbers = np.linspace(-3, 3, 120, dtype=np.float32).reshape(5, 3, 8)
    taken = rows(numbers.astype(ml_dtypes.bfloat16))
    assert taken.dtype is DType.BF16
    np.testing.assert_array_equal(taken.array, bf16(numbers))


def test_heads_that_come_first_in_memory_are_not_copied() -> None:
    heads_first = np.zeros((3, 5, 8), np.float32)
    taken = rows(heads_first.transpose(1, 0, 2))
    assert np.shares_memory(taken.head_major(), heads_first)
    assert not np.shares_memory(taken.head_major(keeps=True), heads_first)


def test_tokens_that_come_first_in_memory_are_copied_once() -> None:
    array = np.arange(120, dtype=np.float32).reshape(5, 3, 8)
    taken = rows(array).head_major(keeps=True)
    assert taken.flags.c_contiguous
    assert taken.base is None
    np.testing.assert_array_equal(taken, array.transpose(1, 0, 2))


def test_torch_tensors() -> None:
    torch = pytest.importorskip("torch")
    numbers = torch.randn(5, 3, 8, requires_grad=True)
    assert rows(numbers).array.ctypes.data == numbers.data_ptr()
    half = numbers.detach().to(torch.bfloat16)
    taken = rows(half)
    assert taken.dtype is DType.BF16
    assert taken.array.ctypes.data == half.data_ptr()
    np.testing.assert_array_equal(taken.array, bf16(half.float().numpy()))


class Exporter:
    """What a library without numpy hands over: a capsule around a ``DLManagedTensor``."""

    def __init__(self, array: npt.NDArray[Any], code: int, device: int = 1) -> None:
        self.array = array
        self._shape = (ctypes.c_int64 * array.ndim)(*array.shape)
        self._strides = (ctypes.c_int64 * array.ndim)(*(stride // array.itemsize for stride in array.strides))
        self._device = device
        self._managed = ctypes.create_string_buffer(ctypes.sizeof(dlpack._Tensor) + 16)
        view = dlpack._Tensor.from_buffer(self._managed)
        view.data, view.device_type, view.ndim = array.ctypes.data, device, array.ndim
        view.code, view.bits, view.lanes = code, array.itemsize * 8, 1
        view.shape, view.strides = self._shape, self._strides

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._device, 0

    def __dlpack__(self) -> Any:
        new = ctypes.pythonapi.PyCapsule_New
        new.restype, new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
        return new(ctypes.addressof(self._managed), b"dltensor", None)


@pytest.mark.parametrize(
    ("code", "dtype", "expected"), [(2, "float32", DType.F32), (2, "float16", DType.F16), (4, "uint16", DType.BF16)]
)
def test_dlpack_of_any_strides_is_not_copied(code: int, dtype: str, expected: DType) -> None:
    array = np.arange(240).astype(dtype).reshape(3, 10, 8)[:, ::2].transpose(1, 0, 2)
    taken = rows(Exporter(array, code))
    assert taken.dtype is expected
    assert taken.array.ctypes.data == array.ctypes.data
    np.testing.assert_array_equal(taken.array, array)


def test_numpys_own_dlpack_is_taken() -> None:
    array = np.arange(120, dtype=np.float32).reshape(5, 3, 8)

    class Foreign:
        __dlpack__ = array.__dlpack__
        __dlpack_device__ = array.__dlpack_device__

    assert rows(Foreign()).array.ctypes.data == array.ctypes.data


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (np.zeros((5, 3, 8)), "The keys are float64; convert them to f32, f16 or bf16."),
        (np.zeros((5, 2, 8), np.float32), r"The keys are \[5, 2, 8\], but the step and its layer need \[5, 3, 8\]"),
        ([1, 2], "The keys are of list, which is not a tensor"),
        (Exporter(np.zeros((5, 3, 8)), 2), "DLPack dtype 2 of 64 bits; convert it to f32, f16 or bf16"),
        (Exporter(np.zeros((5, 3, 8), np.float32), 2, device=2), "memory of a device .* move it to the CPU first"),
    ],
)
def test_what_cannot_go_over_the_wire_is_refused(tensor: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        rows(tensor)
