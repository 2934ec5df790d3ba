"""Frames: a header of 64 bytes, then fields, then a payload of tensors. Bytes in, frames out; no socket."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

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

_HEADER = struct.Struct("<4sHHQQQIHHIIIQ")
_CHECKSUM = struct.Struct("<I")

Buffer: TypeAlias = "bytes | bytearray | npt.NDArray[Any]"


@dataclass(frozen=True, slots=True)
class Tag:
    """Matches an answer with its request, and the frames of one step on all connections."""

    client: int
    number: int
    layer: int = 0
    attempt: int = 0


NO_TAG = Tag(0, 0)


@dataclass(frozen=True, slots=True)
class Frame:
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


def encode(type: int, epoch: int, tag: Tag, fields: bytes | bytearray, payload: Sequence[Buffer] = ()) -> list[Buffer]:
    """The bytes of a frame, as pieces to be sent one after the other, none of them empty. Payload pieces are
    contiguous and not copied.

    Raises:
        InvalidRequest: It is larger than a frame may be.
    """
    sizes = [piece.nbytes if isinstance(piece, np.ndarray) else len(piece) for piece in payload]
    size = sum(sizes)
    if len(fields) > FIELDS_MAX or size > PAYLOAD_MAX:
        raise InvalidRequest(
            f"A frame of {len(fields)} bytes of fields and {size} of payload is above the limits of {FIELDS_MAX} and "
            f"{PAYLOAD_MAX}; ask for less at once."
        )
    crc: int = google_crc32c.value(bytes(fields))
    for piece in payload:
        crc = google_crc32c.extend(crc, piece)
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
    pieces: list[Buffer] = [header + _CHECKSUM.pack(google_crc32c.value(header)) + fields]
    pieces += [piece for piece, count in zip(payload, sizes, strict=True) if count]
    return pieces


def view(piece: Buffer) -> memoryview:
    """The bytes of a piece, where they are."""
    return piece.data.cast("B") if isinstance(piece, np.ndarray) else memoryview(piece)


class FrameReader:
    """Puts frames together from bytes that are received into its buffers.

    ``buffer()`` is where the next bytes go; ``received(count)`` says how many came, and returns a frame when they end
    one.
    """

    __slots__ = ("_body", "_filled", "_header", "_parsed", "_view", "peer")

    def __init__(self, peer: str) -> None:
        self.peer = peer
        self._header = bytearray(HEADER_BYTES)
        self._body: npt.NDArray[np.uint8] = np.empty(0, np.uint8)
        self._parsed: tuple[Any, ...] | None = None
        self._start()

    def _start(self) -> None:
        self._parsed = None
        self._view = memoryview(self._header)
        self._filled = 0

    @property
    def is_between_frames(self) -> bool:
        """Whether no byte of a frame has come that is not whole."""
        return self._parsed is None and self._filled == 0

    def buffer(self) -> memoryview:
        """Where to receive into: at least one byte."""
        return self._view[self._filled :]

    def received(self, count: int) -> Frame | None:
        """Takes note of bytes in the buffer.

        Returns:
            The frame that they end, or ``None``.

        Raises:
            Incompatible: The peer speaks another version.
            ProtocolViolation: The bytes are no frame, or are damaged.
        """
        self._filled += count
        if self._parsed is None:
            if self._filled < HEADER_BYTES:
                if self._filled >= len(MAGIC) and self._header[: len(MAGIC)] != MAGIC:
                    raise self._stranger()
                return None
            self._parse()
            if len(self._view) > 0:
                return None
        elif self._filled < len(self._view):
            return None
        return self._finish()

    def _parse(self) -> None:
        parsed = _HEADER.unpack_from(self._header)
        if parsed[0] != MAGIC:
            raise self._stranger()
        (checksum,) = _CHECKSUM.unpack_from(self._header, _HEADER.size)
        if google_crc32c.value(bytes(self._header[: _HEADER.size])) != checksum:
            raise ProtocolViolation(f"{self.peer} sent a header whose checksum fails; the connection is closed.")
        if parsed[1] != VERSION:
            raise Incompatible(
                f"{self.peer} speaks version {parsed[1]} of the protocol, this client version {VERSION}; install one "
                "release everywhere."
            )
        fields, payload = parsed[9], parsed[10]
        if fields > FIELDS_MAX or payload > PAYLOAD_MAX:
            raise ProtocolViolation(
                f"{self.peer} announced a frame of {fields} and {payload} bytes, above {FIELDS_MAX} and {PAYLOAD_MAX}."
            )
        self._parsed = parsed
        # The payload begins at a multiple of 64 bytes, whatever the fields' size: numbers in it are aligned.
        padding = -fields % 64
        self._body = np.empty(padding + fields + payload, np.uint8)[padding:]
        self._view = self._body.data if fields + payload else memoryview(b"")
        self._filled = 0

    def _finish(self) -> Frame:
        assert self._parsed is not None
        _, _, type, epoch, client, number, layer, sender, attempt, fields, _, crc, _ = self._parsed
        body = self._body
        if google_crc32c.value(body if len(body) else b"") != crc:
            raise ProtocolViolation(f"{self.peer} sent a frame whose checksum fails; the connection is closed.")
        self._start()
        return Frame(
            type,
            epoch,
            Tag(client, number, layer, attempt),
            None if sender == NO_RANK else sender,
            body[:fields].data if fields else memoryview(b""),
            body[fields:],
        )

    def _stranger(self) -> ProtocolViolation:
        start = bytes(self._header[: len(MAGIC)])
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
        if frame is not None:
            yield frame
