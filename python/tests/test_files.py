# SPDX-License-Identifier: Apache-2.0

"""Files of sequences: what is left of an export that fails, and what is no export. No connection."""

from __future__ import annotations

import base64
import json
import resource
import signal
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dcp_attention import InvalidRequest, Model, ModelDescription, Sequence
from dcp_attention._client.sequence_file import SequenceFile, Writer, writing
from dcp_attention._wire.records import encoded

DESCRIPTION = ModelDescription.uniform(1, query_heads=2, kv_heads=1, key_dim=8, kv_format="f32")
SEQUENCE = Sequence(1, "s", Model(1, "m", DESCRIPTION))


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """The process may not write a larger file."""
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


# Less than the header, whose bytes are written at last when the file is closed; and less than the tensors.
@pytest.mark.parametrize("size", [16, 4096])
def test_an_export_that_fails_leaves_no_file(tmp_path: Path, size: int) -> None:
    for _ in range(2):
        with files_up_to(size), pytest.raises(OSError, match="File too large"):
            Writer(tmp_path / "x", SEQUENCE, 1000, None, None)
        assert list(tmp_path.iterdir()) == []


def test_exports_to_one_file_at_once(tmp_path: Path) -> None:
    with writing(Writer(tmp_path / "x", SEQUENCE, 2, None, None)) as first:
        with writing(Writer(tmp_path / "x", SEQUENCE, 3, None, None)) as second:
            assert len(list(tmp_path.iterdir())) == 2
            for writer, tokens in ((first, 2), (second, 3)):
                for name in ("layers.0.k", "layers.0.v"):
                    writer.append_rows(name, np.ones((tokens, 1, 8), np.float32), are_keys=name.endswith("k"))
            second.finish()
        first.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert SequenceFile.opened(tmp_path / "x").length == 2


METADATA = {
    "format": "dcp-sequence",
    "format_version": "4",
    "sequence": "s",
    "model": "m",
    "length": "1",
    "description": base64.b64encode(encoded(DESCRIPTION)).decode(),
}
TENSORS = {
    "layers.0.k": {"dtype": "F32", "shape": [1, 1, 8], "data_offsets": [0, 32]},
    "layers.0.v": {"dtype": "F32", "shape": [1, 1, 8], "data_offsets": [32, 64]},
    "annotation": {"dtype": "U8", "shape": [3], "data_offsets": [64, 67]},
}


def write(path: Path, header: object, data: bytes = bytes(64) + b"abc") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def test_a_file_of_an_export(tmp_path: Path) -> None:
    file = SequenceFile.opened(write(tmp_path / "x", {"__metadata__": METADATA, **TENSORS}))
    assert (file.length, file.annotation) == (1, b"abc")


ANYTHING: list[Any] = [None, 5, -1, 1.5, True, "x", "9" * 5000, [], [1], [[]], {}, {"x": 1}]


@pytest.mark.parametrize("key", ["format_version", "sequence", "model", "length", "scope", "description"])
@pytest.mark.parametrize("value", ANYTHING, ids=lambda value: f"{value!r:.10}")
def test_metadata_that_an_export_does_not_write(tmp_path: Path, key: str, value: object) -> None:
    if key in ("sequence", "model", "scope") and isinstance(value, str):
        return
    with pytest.raises(InvalidRequest, match=f"metadata's {'`?'}{key}"):
        SequenceFile.opened(write(tmp_path / "x", {"__metadata__": {**METADATA, key: value}, **TENSORS}))


@pytest.mark.parametrize("key", ["dtype", "shape", "data_offsets"])
@pytest.mark.parametrize("tensor", list(TENSORS))
@pytest.mark.parametrize(
    "value", [*ANYTHING, [0, 1, 2], [True, False], ["0", "1"], [0, 1 << 70]], ids=lambda value: f"{value!r:.10}"
)
def test_a_tensor_that_an_export_does_not_write(tmp_path: Path, tensor: str, key: str, value: object) -> None:
    header = {"__metadata__": METADATA, **TENSORS, tensor: {**TENSORS[tensor], key: value}}
    with pytest.raises(InvalidRequest, match=tensor):
        SequenceFile.opened(write(tmp_path / "x", header))


@pytest.mark.parametrize("value", ANYTHING, ids=lambda value: f"{value!r:.10}")
def test_a_header_that_an_export_does_not_write(tmp_path: Path, value: object) -> None:
    for header in (
        value,
        {"__metadata__": value, **TENSORS},
        *({"__metadata__": METADATA, **TENSORS, tensor: value} for tensor in TENSORS),
    ):
        with pytest.raises(InvalidRequest):
            SequenceFile.opened(write(tmp_path / "x", header))


@pytest.mark.parametrize("header", [b"{{", b"\xff\xff", b"[" * 100_000, b"9" * 5000])
def test_a_header_that_is_no_json(tmp_path: Path, header: bytes) -> None:
    with pytest.raises(InvalidRequest, match="the header is no JSON"):
        SequenceFile.opened(write(tmp_path / "x", header))
