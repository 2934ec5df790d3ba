# SPDX-License-Identifier: Apache-2.0

"""How values of each type stand in a frame's fields: one declaration for both directions."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from dcp_attention.errors import InvalidRequest, ProtocolViolation, ServiceError

T = TypeVar("T")

LENGTH_MAX = 1 << 48
STRING_BYTES_MAX = 0xFFFF
NO_RANK = 0xFFFF


class Reader:
    """Decodes fields. It allocates nothing for a count larger than the bytes can hold."""

    __slots__ = ("bytes", "offset")

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self.bytes = memoryview(data)
        self.offset = 0

    @property
    def left(self) -> int:
        """Bytes that are not read yet."""
        return len(self.bytes) - self.offset

    def take(self, count: int) -> memoryview:
        """The next bytes.

        Raises:
            ProtocolViolation: There are fewer.
        """
        if count > self.left:
            raise ProtocolViolation(f"A frame has {self.left} bytes of fields left, but needs {count}.")
        start = self.offset
        self.offset = start + count
        return self.bytes[start : self.offset]

    def end(self) -> None:
        """Refuses bytes that are left over."""
        if self.left:
            raise ProtocolViolation(f"A frame has {self.left} bytes of fields left over.")


class Unfit(ValueError):
    """A value that a field cannot hold; whoever knows the field's name raises `InvalidRequest` with it."""

    def of(self, field: str) -> InvalidRequest:
        """The error for the caller, whose argument has the field's name."""
        return InvalidRequest(f"`{field}` is {self}; correct it.")


class Codec(Protocol[T]):
    """Writes values of one type to fields, and reads them."""

    @property
    def least(self) -> int:
        """The fewest bytes that a value has."""

    def write(self, to: bytearray, value: T) -> None:
        """Appends a value.

        Raises:
            InvalidRequest: A field of a record cannot hold its part of it, with the limits.
            Unfit: It is of no record.
        """

    def read(self, reader: Reader) -> T:
        """Takes the next value.

        Raises:
            ProtocolViolation: There is none, or none that is allowed.
        """


class Number(Generic[T]):
    """A number of fixed size, little-endian."""

    def __init__(self, form: str, limits: str) -> None:
        self._struct = struct.Struct("<" + form)
        self._limits = limits
        self.least = self._struct.size

    def write(self, to: bytearray, value: T) -> None:
        try:
            to += self._struct.pack(value)
        except (struct.error, OverflowError):
            raise Unfit(f"{value!r}, not {self._limits}") from None

    def read(self, reader: Reader) -> T:
        value: T = self._struct.unpack(reader.take(self.least))[0]
        return value


U8: Number[int] = Number("B", "a whole number in 0...255")
I8: Number[int] = Number("b", "a whole number in -128...127")
U16: Number[int] = Number("H", "a whole number in 0...65535")
U32: Number[int] = Number("I", "a whole number in 0...4294967295")
U64: Number[int] = Number("Q", "a whole number in 0...18446744073709551615")
F32: Number[float] = Number("f", "a number that f32 holds")


class _Bool:
    least = 1

    def write(self, to: bytearray, value: bool) -> None:
        to.append(bool(value))

    def read(self, reader: Reader) -> bool:
        value = reader.take(1)[0]
        if value > 1:
            raise ProtocolViolation(f"A frame has {value} in a bool, which is 0 or 1.")
        return value == 1


class _Length:
    least = 8

    def write(self, to: bytearray, value: int) -> None:
        if not 0 <= value <= LENGTH_MAX:
            raise Unfit(f"{value!r}, not a whole number in 0...{LENGTH_MAX}")
        U64.write(to, value)

    def read(self, reader: Reader) -> int:
        value = U64.read(reader)
        if value > LENGTH_MAX:
            raise ProtocolViolation(f"A frame has a length of {value}, above {LENGTH_MAX}.")
        return value


class _String:
    least = 2

    def write(self, to: bytearray, value: str) -> None:
        try:
            data = value.encode()
        except UnicodeEncodeError:
            raise Unfit(f"{value!r}, not a text that UTF-8 can hold") from None
        if len(data) > STRING_BYTES_MAX:
            raise Unfit(f"a text of {len(data)} bytes, above the limit of {STRING_BYTES_MAX}")
        U16.write(to, len(data))
        to += data

    def read(self, reader: Reader) -> str:
        data = reader.take(U16.read(reader))
        try:
            return str(data, "utf-8")
        except UnicodeDecodeError:
            raise ProtocolViolation("A frame has a text that is not UTF-8.") from None


class _Rank:
    least = 2

    def write(self, to: bytearray, value: int | None) -> None:
        U16.write(to, NO_RANK if value is None else value)

    def read(self, reader: Reader) -> int | None:
        value = U16.read(reader)
        return None if value == NO_RANK else value


class _Bytes:
    least = 4

    def write(self, to: bytearray, value: bytes) -> None:
        U32.write(to, len(value))
        to += value

    def read(self, reader: Reader) -> bytes:
        return bytes(reader.take(U32.read(reader)))


BOOL = _Bool()
LENGTH = _Length()
STRING = _String()
RANK = _Rank()
BYTES = _Bytes()


def check(codec: Codec[T], field: str, value: T) -> None:
    """Refuses a value that will not fit into a field, before anything is done with it.

    Raises:
        InvalidRequest: It does not, with its limits.
    """
    try:
        codec.write(bytearray(), value)
    except Unfit as error:
        raise error.of(field) from None


@dataclass(frozen=True)
class Array(Generic[T]):
    """A count, then that many values."""

    item: Codec[T]
    least: int = 4

    def write(self, to: bytearray, value: tuple[T, ...]) -> None:
        U32.write(to, len(value))
        for item in value:
            self.item.write(to, item)

    def read(self, reader: Reader) -> tuple[T, ...]:
        count = U32.read(reader)
        if count * self.item.least > reader.left:
            raise ProtocolViolation(f"A frame announces {count} values, but has only {reader.left} bytes.")
        return tuple(self.item.read(reader) for _ in range(count))


@dataclass(frozen=True)
class Optional(Generic[T]):
    """A bool, and after 1 a value."""

    item: Codec[T]
    least: int = 1

    def write(self, to: bytearray, value: T | None) -> None:
        BOOL.write(to, value is not None)
        if value is not None:
            self.item.write(to, value)

    def read(self, reader: Reader) -> T | None:
        return self.item.read(reader) if BOOL.read(reader) else None


@dataclass(frozen=True)
class Present(Generic[T]):
    """A bool for the presence of a value, and the value, which is `absent` if the bool is false."""

    item: Codec[T]
    absent: T

    @property
    def least(self) -> int:
        return 1 + self.item.least

    def write(self, to: bytearray, value: T | None) -> None:
        BOOL.write(to, value is not None)
        self.item.write(to, self.absent if value is None else value)

    def read(self, reader: Reader) -> T | None:
        is_there = BOOL.read(reader)
        value = self.item.read(reader)
        return value if is_there else None


class Record(Generic[T]):
    """Values of several types one after the other, as the attributes of an object."""

    def __init__(self, make: Callable[..., T], **fields: Codec[Any]) -> None:
        self._make = make
        self._fields = tuple(fields.items())
        self.least = sum(codec.least for codec in fields.values())

    def write(self, to: bytearray, value: T) -> None:
        for name, codec in self._fields:
            try:
                codec.write(to, getattr(value, name))
            except Unfit as error:
                raise error.of(name) from None

    def read(self, reader: Reader) -> T:
        return self._make(**{name: codec.read(reader) for name, codec in self._fields})


class _Failure:
    """An error with the service's code."""

    least = 6

    def write(self, to: bytearray, value: ServiceError) -> None:
        U16.write(to, value.number)
        RANK.write(to, value.rank)
        STRING.write(to, value.message)

    def read(self, reader: Reader) -> ServiceError:
        number, rank = U16.read(reader), RANK.read(reader)
        return ServiceError.of(number, STRING.read(reader), rank)


FAILURE = _Failure()


@dataclass(frozen=True)
class Answer(Generic[T]):
    """Of a request for many things: a bool, then the answer to an item or the error that refuses it."""

    item: Codec[T]
    least: int = 1

    def write(self, to: bytearray, value: T | ServiceError) -> None:
        is_error = isinstance(value, ServiceError)
        BOOL.write(to, not is_error)
        codec: Codec[Any] = FAILURE if is_error else self.item
        codec.write(to, value)

    def read(self, reader: Reader) -> T | ServiceError:
        return self.item.read(reader) if BOOL.read(reader) else FAILURE.read(reader)


class _Nothing:
    """No fields."""

    least = 0

    def write(self, to: bytearray, value: None) -> None:
        pass

    def read(self, reader: Reader) -> None:
        return None


NOTHING = _Nothing()
