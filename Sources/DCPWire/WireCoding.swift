// SPDX-License-Identifier: Apache-2.0

public import DCPCore
package import NIOCore

/// Writes the fields of a frame: little-endian integers, strings as a 16-bit count and UTF-8.
public struct WireWriter {
    package private(set) var buffer: ByteBuffer

    package init(allocator: ByteBufferAllocator = ByteBufferAllocator()) {
        buffer = allocator.buffer(capacity: 128)
    }

    public mutating func write<Value: FixedWidthInteger>(_ value: Value) {
        buffer.writeInteger(value, endianness: .little)
    }

    public mutating func write(_ value: Bool) { write(UInt8(value ? 1 : 0)) }
    public mutating func write(_ value: Float) { write(value.bitPattern) }

    /// At most 65,535 bytes; a longer text, which can only be a message for people, is truncated to whole scalars and
    /// ends with an ellipsis.
    public mutating func write(_ text: String) {
        var bytes = Array(text.utf8)
        if bytes.count > Int(UInt16.max) {
            let ellipsis = Array("…".utf8)
            var end = Int(UInt16.max) - ellipsis.count
            // Bytes 10xxxxxx continue a scalar: the cut goes before one that does not fit whole.
            while bytes[end] & 0xC0 == 0x80 { end -= 1 }
            bytes = bytes[..<end] + ellipsis
        }
        write(UInt16(bytes.count))
        buffer.writeBytes(bytes)
    }

    /// A 32-bit count, then the bytes.
    package mutating func write(bytes: [UInt8]) {
        write(UInt32(bytes.count))
        buffer.writeBytes(bytes)
    }

    /// Fields that are already encoded.
    mutating func write(encoded fields: ByteBuffer) { buffer.writeImmutableBuffer(fields) }

    /// A 32-bit count, then each element.
    public mutating func write<Element>(_ elements: [Element], _ body: (inout WireWriter, Element) -> Void) {
        write(UInt32(elements.count))
        for element in elements { body(&self, element) }
    }
}

/// Reads the fields of a frame. Every count is checked against the available bytes before anything is allocated.
public struct WireReader {
    private var buffer: ByteBuffer
    let type: FrameType

    package init(_ buffer: ByteBuffer, of type: FrameType) {
        self.buffer = buffer
        self.type = type
    }

    public mutating func read<Value: FixedWidthInteger>(
        _ field: StaticString, as: Value.Type = Value.self
    ) throws(ServiceError) -> Value {
        guard let value = buffer.readInteger(endianness: .little, as: Value.self) else {
            throw malformed("ends inside `\(field)`")
        }
        return value
    }

    public mutating func readBool(_ field: StaticString) throws(ServiceError) -> Bool {
        let value: UInt8 = try read(field)
        guard value <= 1 else { throw malformed("has \(value) in `\(field)`, which is 0 or 1") }
        return value == 1
    }

    public mutating func readFloat(_ field: StaticString) throws(ServiceError) -> Float {
        Float(bitPattern: try read(field))
    }

    public mutating func readString(_ field: StaticString) throws(ServiceError) -> String {
        let count: UInt16 = try read(field)
        guard let bytes = buffer.readBytes(length: Int(count)) else { throw malformed("ends inside `\(field)`") }
        guard let text = String(validating: bytes, as: UTF8.self) else {
            throw malformed("has a `\(field)` that is not UTF-8")
        }
        return text
    }

    package mutating func readBytes(_ field: StaticString) throws(ServiceError) -> [UInt8] {
        let count: UInt32 = try read(field)
        guard let bytes = buffer.readBytes(length: Int(count)) else { throw malformed("ends inside `\(field)`") }
        return bytes
    }

    /// - Parameters:
    ///   - byteCountMin: the fewest bytes an element takes.
    ///   - countMax: the maximum number of elements; nil if only the bytes limit it.
    public mutating func readArray<Element>(
        _ field: StaticString, byteCountMin: Int, countMax: Int? = nil,
        _ body: (inout WireReader) throws(ServiceError) -> Element
    ) throws(ServiceError) -> [Element] {
        precondition(byteCountMin > 0)
        let count: UInt32 = try read(field)
        if let countMax, Int(count) > countMax {
            throw malformed("has \(count) of `\(field)`, but the limit is \(countMax)")
        }
        guard Int(count) <= buffer.readableBytes / byteCountMin else {
            throw malformed(
                "announces \(count) of `\(field)`, but has bytes for at most \(buffer.readableBytes / byteCountMin)")
        }
        var elements: [Element] = []
        // In memory an element may be larger than on the wire: for many elements, memory is allocated while they are
        // read.
        elements.reserveCapacity(min(Int(count), 65_536))
        for _ in 0..<count { elements.append(try body(&self)) }
        return elements
    }

    /// Reads an enumeration's raw value.
    public mutating func readCase<Value: RawRepresentable>(
        _ field: StaticString, as: Value.Type = Value.self
    ) throws(ServiceError) -> Value where Value.RawValue: FixedWidthInteger {
        let raw: Value.RawValue = try read(field)
        guard let value = Value(rawValue: raw) else { throw malformed("has the unknown value \(raw) in `\(field)`") }
        return value
    }

    /// All bytes that have not been read.
    mutating func takeRest() -> ByteBuffer { buffer.readSlice(length: buffer.readableBytes)! }

    package func finish() throws(ServiceError) {
        guard buffer.readableBytes == 0 else {
            throw malformed("has \(buffer.readableBytes) bytes of fields too many")
        }
    }

    /// A length as an `Int`, refused if no store could ever hold it.
    public mutating func readLength(_ field: StaticString) throws(ServiceError) -> Int {
        let value: UInt64 = try read(field)
        guard value <= UInt64(Self.lengthMax) else {
            throw malformed("has \(value) in `\(field)`, but the limit is \(Self.lengthMax)")
        }
        return Int(value)
    }

    /// The longest sequence, in tokens: 2^48. Sums of as many as a frame may state fit 64 bits; products with the bytes of
    /// a block do not.
    public static let lengthMax = 1 << 48

    public func malformed(_ what: String) -> ServiceError {
        ServiceError(
            .protocolViolation,
            "A \(type) frame \(what); the peer has a bug or runs another release. Install the same release on both "
                + "sides.")
    }
}
