# SPDX-License-Identifier: Apache-2.0

"""Tensors of other libraries as numpy arrays over the same memory, bf16 included, which numpy's own import refuses."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

from dcp_attention.errors import InvalidRequest

_CPU_DEVICES = (1, 3, 11, 13)  # the CPU, and memory that CUDA, ROCm or CUDA's management share with it
_FLOAT, _BFLOAT = 2, 4


class _Tensor(ctypes.Structure):
    """``DLTensor`` of dlpack.h."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype = ctypes.c_void_p
_pointer.argtypes = (ctypes.py_object, ctypes.c_char_p)


class _Owner:
    """Memory that a capsule keeps, in numpy's array interface. The capsule's own destructor gives it back."""

    def __init__(self, capsule: Any, interface: dict[str, Any]) -> None:
        self._capsule = capsule
        self.__array_interface__ = interface


def as_array(tensor: Any) -> npt.NDArray[Any]:
    """An array over the memory of an object with ``__dlpack__``; bf16 comes as u16.

    Raises:
        InvalidRequest: The memory is a device's, or the dtype is none that goes over the wire.
    """
    device, _ = tensor.__dlpack_device__()
    if device not in _CPU_DEVICES:
        raise InvalidRequest(
            f"A tensor of {type(tensor).__module__}.{type(tensor).__name__} is in the memory of a device (DLPack type "
            f"{int(device)}); move it to the CPU first."
        )
    capsule = tensor.__dlpack__()
    view = ctypes.cast(_pointer(capsule, b"dltensor"), ctypes.POINTER(_Tensor)).contents
    if view.lanes != 1 or (view.code, view.bits) not in ((_FLOAT, 32), (_FLOAT, 16), (_BFLOAT, 16)):
        raise InvalidRequest(
            f"A tensor has the DLPack dtype {view.code} of {view.bits} bits; convert it to f32, f16 or bf16."
        )
    size = view.bits // 8
    shape = tuple(view.shape[axis] for axis in range(view.ndim))
    strides = tuple(view.strides[axis] * size for axis in range(view.ndim)) if view.strides else None
    return np.asarray(
        _Owner(
            capsule,
            {
                "version": 3,
                "shape": shape,
                "strides": strides,
                "typestr": "<u2" if view.code == _BFLOAT else f"<f{size}",
                "data": ((view.data or 0) + view.byte_offset, True),
            },
        )
    )
