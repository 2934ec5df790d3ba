# SPDX-License-Identifier: Apache-2.0

"""A sequence in a safetensors file, as `dcpctl sequence export` writes it: for each layer keys and values.

See *Transfer*. ``layers.<l>.k`` is ``[T, Hkv, Dk]`` and ``layers.<l>.v`` ``[T, Hkv, Dv]`` in BF16, F16 or F32, or in I8
or F8_E4M3 with ``layers.<l>.k_scale`` and ``layers.<l>.v_scale`` ``[T, Hkv]`` in F32; ``token_ids`` is ``[T]`` in U32,
``annotation`` in U8.
"""

from __future__ import annotations

import base64
import contextlib
import json
import math
import os
import secrets
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from dcp_attention._client.scaled import ScaledRows, narrowed, numbers, rounded, scaled, widened, words_dims
from dcp_attention._wire.codec import LENGTH_MAX
from dcp_attention._wire.records import decoded, encoded
from dcp_attention._wire.tensors import NUMPY_DTYPES
from dcp_attention.errors import InvalidModel, InvalidRequest
from dcp_attention.model import CacheFormat, DType, ModelDescription
from dcp_attention.values import Sequence

FORMAT, FORMAT_VERSION = "dcp-sequence", "4"
KEY_ROTATION = "signs-walsh-hadamard"
"""The rotation of the keys of ``int8``, see *Byte formats*."""
_NAMES = {DType.BF16: "BF16", DType.F16: "F16", DType.F32: "F32"}
_BYTES = {CacheFormat.INT8: "I8", CacheFormat.FP8: "F8_E4M3"}
_SIZES = {"U8": 1, "I8": 1, "F8_E4M3": 1, "BF16": 2, "F16": 2, "F32": 4, "U32": 4}
_HEADER_MAX = 100 << 20


class Writer:
    """Writes a file under another name, tensor after tensor, and gives it its own when it is complete."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        sequence: Sequence,
        length: int,
        ids: int | None,
        annotation: bytes | None,
        dtype: DType | None = None,
    ) -> None:
        self.path = os.fspath(path)
        # Another export of the same name, of this process too, has another one.
        self._partial = f"{self.path}.partial-{os.getpid()}-{secrets.token_hex(4)}"
        description = sequence.model.description
        self._format = description.kv_format
        self._dtype = dtype
        """Of rows; ``None`` for the cache's own form."""
        if dtype is None and not self._format.has_scales:
            self._dtype = self._format.row_type
        metadata = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "sequence": sequence.name,
            "model": sequence.model.name,
            "length": str(length),
            "scope": sequence.scope,
            "description": base64.b64encode(encoded(description)).decode(),
        }
        if self._dtype is None and self._format is CacheFormat.INT8:
            metadata["key_rotation"] = KEY_ROTATION
        self._header: dict[str, Any] = {"__metadata__": metadata}
        self._end = 0
        self.row_bytes = 0
        """Of the tensors of keys and values."""
        tensors: list[tuple[str, str, tuple[int, ...]]] = []
        for layer, attention in enumerate(description.layers):
            for name, dim in ((f"layers.{layer}.k", attention.key_dim), (f"layers.{layer}.v", attention.own_value_dim)):
                if dim:
                    tensors += self._rows(name, (length, attention.kv_heads, dim))
        if ids is not None:
            tensors.append(("token_ids", "U32", (ids,)))
        if annotation is not None:
            tensors.append(("annotation", "U8", (len(annotation),)))
        # Wider elements first, so that each tensor begins at a multiple of its element.
        for name, elements, shape in sorted(tensors, key=lambda tensor: -_SIZES[tensor[1]]):
            self._declare(name, elements, shape)
        header = json.dumps(self._header, separators=(",", ":"), ensure_ascii=False).encode()
        header += b" " * (-len(header) % 8)
        self._start = 8 + len(header)
        self._written = dict.fromkeys(self._header, 0)
        self._file: IO[bytes] = open(self._partial, "xb")  # noqa: SIM115
        try:
            self._file.write(struct.pack("<Q", len(header)) + header)
            self._file.truncate(self._start + self._end)
        except BaseException:
            self.abandon()
            raise

    def _rows(self, name: str, shape: tuple[int, ...]) -> list[tuple[str, str, tuple[int, ...]]]:
        if self._dtype is not None:
            return [(name, _NAMES[self._dtype], shape)]
        tensors = [(name, _BYTES[self._format], shape), (f"{name}_scale", "F32", shape[:2])]
        if self._format.has_words and name.endswith(".k"):
            tensors.append((f"{name}_apart", "U32", shape[:2]))
        return tensors

    def _declare(self, name: str, dtype: str, shape: tuple[int, ...]) -> None:
        size = math.prod(shape) * _SIZES[dtype]
        if name.startswith("layers."):
            self.row_bytes += size
        self._header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [self._end, self._end + size]}
        self._end += size

    def append_rows(self, name: str, rows: npt.NDArray[Any], *, are_keys: bool) -> None:
        """Writes the next rows of keys or values, as the cache gives them back.

        Raises:
            InvalidRequest: The file's dtype cannot hold a number.
        """
        read = self._format.row_type
        if self._dtype is None:
            made = scaled(widened(rows, read), self._format, are_keys=are_keys)
            self.append(name, made.codes)
            self.append(f"{name}_scale", made.scales.astype("<f4"))
            if made.words is not None:
                self.append(f"{name}_apart", made.words.astype("<u4"))
        elif self._dtype is read:
            self.append(name, rows.view(np.uint8))
        else:
            wide = widened(rows, read)
            narrow = narrowed(wide, self._dtype)
            beyond = wide[~np.isfinite(widened(narrow, self._dtype))]
            if beyond.size:
                raise InvalidRequest(
                    f"{self.path}: {name} has {beyond[0]}, which {self._dtype.name.lower()} cannot hold. Export it in "
                    "another dtype, such as f32."
                )
            self.append(name, narrow.astype(NUMPY_DTYPES[self._dtype]))

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
        # Closing it writes what is buffered, which fails on a disk that is full.
        with contextlib.suppress(OSError):
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
class FileRows:
    """Keys or values of one layer in a file: rows of a dtype, bf16 in u16, or codes with a scale for each.

    Attributes:
        array: ``[T, heads, dim]``.
        dtype: Of the rows that it gives.
        kv_format: For codes, the format whose codes they are.
        scales: For codes, ``[T, heads]``.
        words: For codes of ``int8``, ``[T, heads]`` if the file has them.
        are_rotated: For codes of ``int8``, whether they are rotated, as a cache keeps its keys.
    """

    array: npt.NDArray[Any]
    dtype: DType
    kv_format: CacheFormat | None = None
    scales: npt.NDArray[np.float32] | None = None
    words: npt.NDArray[np.uint32] | None = None
    are_rotated: bool = False

    def rows(self, start: int, end: int) -> npt.NDArray[Any]:
        """The rows of some tokens."""
        part = self.array[start:end]
        if self.kv_format is None or self.scales is None:
            return part
        words = None if self.words is None else np.array(self.words[start:end])
        some = ScaledRows(np.array(part), np.array(self.scales[start:end]), words)
        return numbers(some, self.kv_format, are_rotated=self.are_rotated)

    def read_back(self, start: int, end: int, kv_format: CacheFormat, *, are_keys: bool) -> npt.NDArray[Any]:
        """The same as a cache of a format gives them back."""
        rows = self.rows(start, end)
        if self.dtype is kv_format.row_type and not kv_format.has_scales:
            return rows
        return narrowed(rounded(widened(rows, self.dtype), kv_format, are_keys=are_keys), kv_format.row_type)

    @property
    def nbytes(self) -> int:
        """In the file."""
        return sum(part.nbytes for part in (self.array, self.scales, self.words) if part is not None)


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
    keys: tuple[FileRows, ...]
    values: tuple[FileRows | None, ...]

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
        if not isinstance(metadata, dict):
            raise InvalidRequest(f"{name}: the metadata is no JSON object; give a file that an export wrote.")
        for key, value in metadata.items():
            if not isinstance(value, str):
                raise _wrong(name, key, value, "a text")
        for key, expected in (("format", FORMAT), ("format_version", FORMAT_VERSION)):
            if metadata.get(key) != expected:
                raise _wrong(name, key, metadata.get(key), f"`{expected}`")
        length = metadata.get("length", "")
        # Of so many digits alone: Python refuses to read more than some thousands.
        if not (length.isascii() and length.isdigit() and len(length) <= 15 and int(length) <= LENGTH_MAX):
            raise _wrong(name, "length", length, f"a whole number up to {LENGTH_MAX}")
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
        if metadata.get("key_rotation") not in (None, KEY_ROTATION):
            raise _wrong(name, "key_rotation", metadata["key_rotation"], f"`{KEY_ROTATION}`")
        rotates = "key_rotation" in metadata

        def tensor(key: str, dtype: str, numpy_dtype: np.dtype[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
            return _tensor(name, header, data, key, dtype, numpy_dtype, shape)

        def rows(key: str, shape: tuple[int, ...], are_rotated: bool) -> FileRows:
            entry = header.get(key)
            found = entry.get("dtype") if isinstance(entry, dict) else None
            for kv_format, dtype in _BYTES.items():
                if dtype == found:
                    codes = tensor(key, dtype, np.dtype("u1"), shape)
                    scales = tensor(f"{key}_scale", "F32", np.dtype("<f4"), shape[:2])
                    words = None
                    if kv_format.has_words and f"{key}_apart" in header:
                        words = tensor(f"{key}_apart", "U32", np.dtype("<u4"), shape[:2])
                        dims = words_dims(words)
                        beyond = dims[(words != 0) & (dims >= shape[2])]
                        if beyond.size:
                            raise InvalidRequest(
                                f"{name}: a word of tensor {key}_apart names dimension {beyond[0]} of "
                                f"{shape[2]}; the file is damaged; export the sequence again."
                            )
                    return FileRows(codes, DType.F32, kv_format, scales, words, are_rotated)
            row_type = next((row_type for row_type, dtype in _NAMES.items() if dtype == found), None)
            # Of no dtype of rows: the message names that of the cache.
            row_type = description.kv_format.row_type if row_type is None else row_type
            return FileRows(tensor(key, _NAMES[row_type], NUMPY_DTYPES[row_type], shape), row_type)

        keys, values = [], []
        for layer, a in enumerate(description.layers):
            k = rows(f"layers.{layer}.k", (tokens, a.kv_heads, a.key_dim), rotates)
            v = rows(f"layers.{layer}.v", (tokens, a.kv_heads, a.own_value_dim), False) if a.own_value_dim else None
            if v is not None and v.dtype is not k.dtype:
                raise InvalidRequest(
                    f"{name}: layers.{layer}.k has rows of {k.dtype.name.lower()} and layers.{layer}.v of "
                    f"{v.dtype.name.lower()}; store both in one dtype."
                )
            keys.append(k)
            values.append(v)
        ids = tensor("token_ids", "U32", np.dtype("<u4"), (tokens,)) if "token_ids" in header else None
        annotation = None
        if "annotation" in header:
            size = _bytes(name, header, data, "annotation").size
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
        except (ValueError, RecursionError) as error:
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
    part = _bytes(path, header, data, name)
    entry = header[name]
    if entry.get("dtype") != dtype or entry.get("shape") != list(shape):
        raise InvalidRequest(
            f"{path}: tensor {name} is {entry.get('dtype')} {entry.get('shape')}, the metadata says {dtype} "
            f"{list(shape)}; export the sequence again."
        )
    if part.size != math.prod(shape) * numpy_dtype.itemsize:
        raise InvalidRequest(
            f"{path}: tensor {name} has {part.size} bytes for {list(shape)}; export the sequence again."
        )
    return part.view(numpy_dtype).reshape(shape)


def _bytes(path: str, header: dict[str, Any], data: npt.NDArray[np.uint8], name: str) -> npt.NDArray[np.uint8]:
    entry = header.get(name)
    if not isinstance(entry, dict):
        raise InvalidRequest(f"{path}: tensor {name} is missing; export the sequence again.")
    offsets = entry.get("data_offsets")
    if not (isinstance(offsets, list) and len(offsets) == 2 and all(type(offset) is int for offset in offsets)):
        raise InvalidRequest(
            f"{path}: tensor {name} lies at {offsets!r}, not between two offsets; export the sequence again."
        )
    start, end = offsets
    if not 0 <= start <= end <= len(data):
        raise InvalidRequest(
            f"{path}: tensor {name} lies at {start}..<{end} of {len(data)} bytes; the file is cut off."
        )
    return data[start:end]


def _wrong(path: str, key: str, value: object, expected: str) -> InvalidRequest:
    found = "is missing" if value is None else f"is {value!r:.80}"
    return InvalidRequest(
        f"{path}: the metadata's `{key}` {found}, not {expected}; give a file that an export of this release wrote."
    )
