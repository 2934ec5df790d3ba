# SPDX-License-Identifier: Apache-2.0

"""Frames: a header of 64 bytes, then fields, then a payload of tensors. Bytes in, frames out; no socket."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import google_crc32c
import numpy as np
import numpy.typing as npt

from dcp_attention._wire.codec import NO_RANK, Reader
from dcp_attention.errors import Incompatible, InvalidRequest, ProtocolViolation

MAGIC = b"DCP1"
VERSION = 4
HEADER_BYTES = 64
FIELDS_MAX = 16 << 20
PAYLOAD_MAX = 256 << 20
_AHEAD = 64 << 10

_HEADER = struct.Struct("<4sHHQQQIHHIIIQ")
_CHECKSUM = struct.Struct("<I")
_CHECKED_HEADER = struct.Struct(_HEADER.format + "I")

# Named tuples, because a step makes several of each: a frozen dataclass takes five times as long to make and to hash.


class Tag(NamedTuple):
    """Matches an answer with its request, and the frames of one step on all connections."""

    client: int
    number: int
    layer: int = 0
    attempt: int = 0


NO_TAG = Tag(0, 0)


class Frame(NamedTuple):
    """A frame that came."""

    type: int
    epoch: int
    tag: Tag
    sender: int | None
    fields: memoryview
    payload: npt.NDArray[np.uint8]

    def reader(self) -> Reader:
        """Takes the fields apart."""
        return Reader(self.fields)


class Encoded(NamedTuple):
    """A frame to be sent: pieces of bytes, one after the other and none of them empty, and how many bytes these are."""

    pieces: list[bytes | memoryview]
    size: int


def encode(
    type: int, epoch: int, tag: Tag, fields: bytes | bytearray, payload: Sequence[npt.NDArray[Any]] = ()
) -> Encoded:
    """The bytes of a frame. Arrays of the payload are contiguous, and not copied.

    Raises:
        InvalidRequest: It is larger than a frame may be.
    """
    sizes = [array.nbytes for array in payload]
    size = sum(sizes)
    if len(fields) > FIELDS_MAX or size > PAYLOAD_MAX:
        raise InvalidRequest(
            f"A frame of {len(fields)} bytes of fields and {size} of payload is above the limits of {FIELDS_MAX} and "
            f"{PAYLOAD_MAX}; request less at once."
        )
    crc: int = google_crc32c.value(bytes(fields))
    for array in payload:
        crc = google_crc32c.extend(crc, array)
    header = _HEADER.pack(
        MAGIC,
        VERSION,
        type,
        epoch,
        tag.client,
        tag.number,
        tag.layer,
        NO_RANK,
        tag.attempt,
        len(fields),
        size,
        crc,
        0,
    )
    head = b"".join((header, _CHECKSUM.pack(google_crc32c.value(header)), fields))
    return Encoded([head, *(array.data.cast("B") for array in payload if array.size)], len(head) + size)


class FrameReader:
    """Puts frames together from bytes that are received into its buffers.

    ``buffer()`` is where the next bytes go; ``received(count)`` says how many came, and returns a frame when they end
    one. Others may have come with it: ``received(0)`` returns the next, until there is none.

    A header is received with what follows it, so that an answer of `_AHEAD` bytes takes one system call; the rest of a
    larger one is received into its place.
    """

    __slots__ = ("_ahead", "_body", "_filled", "_found", "_parsed", "_view", "peer")

    def __init__(self, peer: str) -> None:
        self.peer = peer
        self._ahead = memoryview(bytearray(HEADER_BYTES + _AHEAD))
        self._body: npt.NDArray[np.uint8] = np.empty(0, np.uint8)
        self._found = 0  # bytes in `_ahead`, between two frames or in a header
        self._parsed: tuple[Any, ...] | None = None
        self._view = self._ahead
        self._filled = 0  # bytes in `_body`, in a frame

    @property
    def is_between_frames(self) -> bool:
        """Whether no incomplete frame is buffered."""
        return self._parsed is None and self._found == 0

    def buffer(self) -> memoryview:
        """The buffer to receive into: at least one byte."""
        return self._ahead[self._found :] if self._parsed is None else self._view[self._filled :]

    def received(self, count: int) -> Frame | None:
        """Takes note of bytes in the buffer.

        Returns:
            The frame that they end, or ``None``.

        Raises:
            Incompatible: The peer speaks another version.
            ProtocolViolation: The bytes are no frame, or are damaged.
        """
        if self._parsed is not None:
            self._filled += count
        else:
            self._found += count
            if self._found < HEADER_BYTES:
                if self._found >= len(MAGIC) and self._ahead[: len(MAGIC)] != MAGIC:
                    raise self._stranger()
                return None
            self._parse()
        return self._finish() if self._filled == len(self._view) else None

    def _parse(self) -> None:
        ahead = self._ahead
        parsed = _CHECKED_HEADER.unpack_from(ahead)
        magic, version, _, _, _, _, _, _, _, fields, payload, _, _, checksum = parsed
        if magic != MAGIC:
            raise self._stranger()
        if google_crc32c.value(bytes(ahead[: _HEADER.size])) != checksum:
            raise ProtocolViolation(f"{self.peer} sent a header whose checksum fails; the connection is closed.")
        if version != VERSION:
            raise Incompatible(
                f"{self.peer} speaks version {version} of the protocol, this client version {VERSION}; install one "
                "release everywhere."
            )
        if fields > FIELDS_MAX or payload > PAYLOAD_MAX:
            raise ProtocolViolation(
                f"{self.peer} announced a frame of {fields} and {payload} bytes, above {FIELDS_MAX} and {PAYLOAD_MAX}."
            )
        self._parsed = parsed
        # The payload begins at a multiple of 64 bytes, whatever the fields' size: numbers in it are aligned.
        padding = -fields % 64
        self._body = np.empty(padding + fields + payload, np.uint8)[padding:]
        self._view = self._body.data
        end = min(self._found, HEADER_BYTES + fields + payload)
        self._filled = end - HEADER_BYTES
        self._view[: self._filled] = ahead[HEADER_BYTES:end]
        self._found -= end
        if self._found:
            # Copied before it is moved: the two may overlap.
            ahead[: self._found] = bytes(ahead[end : end + self._found])

    def _finish(self) -> Frame:
        assert self._parsed is not None
        _, _, type, epoch, client, number, layer, sender, attempt, fields, _, crc, _, _ = self._parsed
        body = self._body
        if google_crc32c.value(body if len(body) else b"") != crc:
            raise ProtocolViolation(f"{self.peer} sent a frame whose checksum fails; the connection is closed.")
        self._parsed = None
        return Frame(
            type,
            epoch,
            Tag(client, number, layer, attempt),
            None if sender == NO_RANK else sender,
            body[:fields].data if fields else memoryview(b""),
            body[fields:],
        )

    def _stranger(self) -> ProtocolViolation:
        start = bytes(self._ahead[: len(MAGIC)])
        kind = {b"HTTP": "HTTP", b"\x15\x03": "TLS", b"\x16\x03": "TLS"}
        spoken = next((name for prefix, name in kind.items() if start.startswith(prefix)), "another protocol")
        return ProtocolViolation(
            f"{self.peer} does not speak this protocol: it began with {start!r}, which seems to be {spoken}. Correct "
            "the address."
        )


def frames(data: bytes, peer: str = "the peer") -> Iterable[Frame]:
    """The frames of some bytes, for tests and recordings."""
    reader = FrameReader(peer)
    while data:
        buffer = reader.buffer()
        count = min(len(buffer), len(data))
        buffer[:count] = data[:count]
        data = data[count:]
        frame = reader.received(count)
        while frame is not None:
            yield frame
            frame = reader.received(0)
