# SPDX-License-Identifier: Apache-2.0

"""A sequence in a safetensors file, as `dcpctl sequence export` writes it: for each layer keys and values as the cache
holds them.

See *Transfer*. ``layers.<l>.k`` is ``[T, Hkv, Dk]`` and ``layers.<l>.v`` ``[T, Hkv, Dv]`` in the cache format,
``token_ids`` ``[T]`` in U32, ``annotation`` in U8.
"""

from __future__ import annotations

import base64
import contextlib
import json
import math
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from dcp_attention._wire.records import decoded, encoded
from dcp_attention._wire.tensors import NUMPY_DTYPES
from dcp_attention.errors import InvalidModel, InvalidRequest
from dcp_attention.model import DType, ModelDescription
from dcp_attention.values import Sequence

FORMAT, FORMAT_VERSION = "dcp-sequence", "3"
_NAMES = {DType.BF16: "BF16", DType.F16: "F16", DType.F32: "F32"}
_HEADER_MAX = 100 << 20


class Writer:
    """Writes a file under another name, tensor after tensor, and gives it its own when it is complete."""

    def __init__(
        self, path: str | os.PathLike[str], sequence: Sequence, length: int, ids: int | None, annotation: bytes | None
    ) -> None:
        self.path = os.fspath(path)
        self._partial = f"{self.path}.partial-{os.getpid()}"
        description = sequence.model.description
        self._header: dict[str, Any] = {
            "__metadata__": {
                "format": FORMAT,
                "format_version": FORMAT_VERSION,
                "sequence": sequence.name,
                "model": sequence.model.name,
                "length": str(length),
                "scope": sequence.scope,
                "description": base64.b64encode(encoded(description)).decode(),
            }
        }
        self._end = 0
        for layer, attention in enumerate(description.layers):
            for name, dim in ((f"layers.{layer}.k", attention.key_dim), (f"layers.{layer}.v", attention.own_value_dim)):
                if dim:
                    self._declare(name, _NAMES[description.kv_format.row_type], (length, attention.kv_heads, dim))
        if ids is not None:
            self._declare("token_ids", "U32", (ids,))
        if annotation is not None:
            self._declare("annotation", "U8", (len(annotation),))
        self._file: IO[bytes] = open(self._partial, "xb")  # noqa: SIM115
        header = json.dumps(self._header, separators=(",", ":"), ensure_ascii=False).encode()
        header += b" " * (-len(header) % 8)
        self._start = 8 + len(header)
        self._written = dict.fromkeys(self._header, 0)
        self._file.write(struct.pack("<Q", len(header)) + header)
        self._file.truncate(self._start + self._end)

    def _declare(self, name: str, dtype: str, shape: tuple[int, ...]) -> None:
        size = math.prod(shape) * {"U8": 1, "BF16": 2, "F16": 2}.get(dtype, 4)
        self._header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [self._end, self._end + size]}
        self._end += size

    def append(self, name: str, numbers: npt.NDArray[Any] | bytes) -> None:
        """Writes the next numbers of a tensor."""
        data = np.ascontiguousarray(numbers).tobytes() if isinstance(numbers, np.ndarray) else numbers
        start, end = self._header[name]["data_offsets"]
        at = start + self._written[name]
        assert at + len(data) <= end, name
        self._file.seek(self._start + at)
        self._file.write(data)
        self._written[name] += len(data)

    def finish(self) -> int:
        """Syncs the file and gives it its name.

        Returns:
            Its bytes of tensors.
        """
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._partial, self.path)
        return self._end

    def abandon(self) -> None:
        """Removes the partial file."""
        self._file.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._partial)


@contextlib.contextmanager
def writing(writer: Writer) -> Iterator[Writer]:
    """Removes the file if it is not completed."""
    try:
        yield writer
    except BaseException:
        writer.abandon()
        raise


@dataclass(frozen=True)
class SequenceFile:
    """A file that an export wrote, with all that can be checked without a cluster checked."""

    path: str
    sequence: str
    model: str
    scope: str
    length: int
    description: ModelDescription
    token_ids: npt.NDArray[np.uint32] | None
    annotation: bytes | None
    keys: tuple[npt.NDArray[Any], ...]
    values: tuple[npt.NDArray[Any] | None, ...]

    @staticmethod
    def opened(path: str | os.PathLike[str]) -> SequenceFile:
        """Maps a file.

        Raises:
            InvalidRequest: It is no export, naming tensor or key, value and remedy.
            OSError: It cannot be read.
        """
        name = os.fspath(path)
        header, data = _mapped(name)
        metadata = header.pop("__metadata__", None) or {}
        for key, expected in (("format", FORMAT), ("format_version", FORMAT_VERSION)):
            if metadata.get(key) != expected:
                raise _wrong(name, key, metadata.get(key), f"`{expected}`")
        length = metadata.get("length", "")
        if not (isinstance(length, str) and length.isascii() and length.isdigit()):
            raise _wrong(name, "length", length, "a whole number")
        for key in ("sequence", "model"):
            if not metadata.get(key):
                raise _wrong(name, key, metadata.get(key), "a name")
        try:
            description = decoded(base64.b64decode(metadata.get("description", ""), validate=True))
        except (ValueError, InvalidModel) as error:
            raise InvalidRequest(
                f"{name}: the metadata's description is no model's ({error}); export it again."
            ) from error
        tokens = int(length)
        dtype, numpy_dtype = _NAMES[description.kv_format.row_type], NUMPY_DTYPES[description.kv_format.row_type]

        def tensor(key: str, dtype: str, numpy_dtype: np.dtype[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
            return _tensor(name, header, data, key, dtype, numpy_dtype, shape)

        keys, values = [], []
        for layer, a in enumerate(description.layers):
            keys.append(tensor(f"layers.{layer}.k", dtype, numpy_dtype, (tokens, a.kv_heads, a.key_dim)))
            shape = (tokens, a.kv_heads, a.own_value_dim)
            values.append(tensor(f"layers.{layer}.v", dtype, numpy_dtype, shape) if a.own_value_dim else None)
        ids = tensor("token_ids", "U32", np.dtype("<u4"), (tokens,)) if "token_ids" in header else None
        annotation = None
        if "annotation" in header:
            size = header["annotation"].get("shape", [0])[0]
            annotation = tensor("annotation", "U8", np.dtype("u1"), (size,)).tobytes()
        return SequenceFile(
            name,
            metadata["sequence"],
            metadata["model"],
            metadata.get("scope", ""),
            tokens,
            description,
            ids,
            annotation,
            tuple(keys),
            tuple(values),
        )


def _mapped(path: str) -> tuple[dict[str, Any], npt.NDArray[np.uint8]]:
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        prefix = file.read(8)
        count = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 2 <= count <= min(_HEADER_MAX, size - 8):
            raise InvalidRequest(f"{path} has no header of safetensors; give a file that an export wrote.")
        try:
            header = json.loads(file.read(count))
        except ValueError as error:
            raise InvalidRequest(
                f"{path}: the header is no JSON ({error}); give a file that an export wrote."
            ) from error
    if not isinstance(header, dict):
        raise InvalidRequest(f"{path}: the header is no JSON object; give a file that an export wrote.")
    if size == 8 + count:
        return header, np.empty(0, np.uint8)
    return header, np.memmap(path, np.uint8, "r", 8 + count)


def _tensor(
    path: str,
    header: dict[str, Any],
    data: npt.NDArray[np.uint8],
    name: str,
    dtype: str,
    numpy_dtype: np.dtype[Any],
    shape: tuple[int, ...],
) -> npt.NDArray[Any]:
    entry = header.get(name)
    if not isinstance(entry, dict):
        raise InvalidRequest(f"{path}: tensor {name} is missing; export the sequence again.")
    if entry.get("dtype") != dtype or entry.get("shape") != list(shape):
        raise InvalidRequest(
            f"{path}: tensor {name} is {entry.get('dtype')} {entry.get('shape')}, the metadata says {dtype} "
            f"{list(shape)}; export the sequence again."
        )
    start, end = (*entry.get("data_offsets", ()), -1, -1)[:2]
    if not (isinstance(start, int) and isinstance(end, int)) or not 0 <= start <= end <= len(data):
        raise InvalidRequest(
            f"{path}: tensor {name} lies at {start}..<{end} of {len(data)} bytes; the file is cut off."
        )
    if end - start != math.prod(shape) * numpy_dtype.itemsize:
        raise InvalidRequest(
            f"{path}: tensor {name} has {end - start} bytes for {list(shape)}; export the sequence again."
        )
    return data[start:end].view(numpy_dtype).reshape(shape)


def _wrong(path: str, key: str, value: object, expected: str) -> InvalidRequest:
    found = "is missing" if value is None else f"is {value!r}"
    return InvalidRequest(
        f"{path}: the metadata's `{key}` {found}, not {expected}; give a file that an export of this release wrote."
    )
