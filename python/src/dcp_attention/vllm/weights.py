# SPDX-License-Identifier: Apache-2.0

"""A digest of a sample of a model's files, for weights that have no other identity."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".gguf")

# What is read of each tensor, or of each part of a file whose tensors are not known: a model has just been loaded to be
# used at once.
_PIECES = 8
_PIECE_BYTES = 64
_PART_BYTES = 1 << 20

# Of a safetensors file the bytes before its header, which are its length.
_LENGTH_BYTES = 8


def sample_of(model: Path) -> str | None:
    """The digest of a model, which is a directory with files of weights or such a file; ``None`` if it is neither.

    Copies of the files have the same one, wherever they are.
    """
    files = sorted(model.iterdir()) if model.is_dir() else [model]
    digest, count = hashlib.sha256(), 0
    for path in files:
        if path.suffix in _SUFFIXES and path.is_file():
            count += 1
            with path.open("rb", buffering=0) as file:
                _take(digest, path.name, file)
    return f"sample:{digest.hexdigest()[:32]}" if count else None


def _take(digest: hashlib._Hash, name: str, file: BinaryIO) -> None:
    size = os.fstat(file.fileno()).st_size
    digest.update(f"{name} {size}\n".encode())
    for start, end in _tensors(digest, file) if name.endswith(".safetensors") else _parts(size):
        last = max(start, end - _PIECE_BYTES)
        places = {start + (last - start) * piece // (_PIECES - 1) for piece in range(_PIECES)}
        for place in sorted(places):
            digest.update(os.pread(file.fileno(), min(_PIECE_BYTES, end - place), place))


def _tensors(digest: hashlib._Hash, file: BinaryIO) -> Iterator[tuple[int, int]]:
    """Where the tensors of a file are; its header, which has their names and shapes, becomes part of the digest."""
    stated = int.from_bytes(os.pread(file.fileno(), _LENGTH_BYTES, 0), "little")
    size = min(stated, os.fstat(file.fileno()).st_size)
    header = os.pread(file.fileno(), size, _LENGTH_BYTES)
    digest.update(header)
    for name, tensor in json.loads(header).items():
        if name != "__metadata__":
            start, end = tensor["data_offsets"]
            yield _LENGTH_BYTES + size + start, _LENGTH_BYTES + size + end


def _parts(size: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + _PART_BYTES, size)) for start in range(0, size, _PART_BYTES))
