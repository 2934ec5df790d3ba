// SPDX-License-Identifier: Apache-2.0

internal import DCPCore

/// Builds a key: integers big-endian, so that LMDB's byte order is their numeric order.
struct KeyBytes {
    private(set) var bytes: [UInt8] = []

    mutating func append<Value: FixedWidthInteger>(_ value: Value) {
        withUnsafeBytes(of: value.bigEndian) { bytes.append(contentsOf: $0) }
    }

    static func of<A: FixedWidthInteger>(_ a: A) -> [UInt8] {
        var key = KeyBytes()
        key.append(a)
        return key.bytes
    }
}

/// Builds a record: integers little-endian, and a CRC-32C at the end.
///
/// The checksum covers the key and then the record, so a value that lands under another key is as wrong as a flipped
/// bit.
struct RecordBytes {
    private var bytes: [UInt8] = []

    mutating func append<Value: FixedWidthInteger>(_ value: Value) {
        withUnsafeBytes(of: value.littleEndian) { bytes.append(contentsOf: $0) }
    }

    mutating func append(_ text: String) { bytes.append(contentsOf: text.utf8) }
    mutating func append(_ more: [UInt8]) { bytes.append(contentsOf: more) }

    func sealed(key: [UInt8]) -> [UInt8] {
        var sealed = self
        sealed.append(Checksum.of(key: key, bytes.withUnsafeBytes { $0 }))
        return sealed.bytes
    }
}

/// Reads a record's little-endian integers. nil past its end: every field is checked, none is trusted.
struct RecordReader {
    private var rest: UnsafeRawBufferPointer

    /// - Returns: nil when the checksum at the end does not fit key and bytes.
    init?(key: [UInt8], _ value: UnsafeRawBufferPointer) {
        guard value.count >= 4 else { return nil }
        let body = UnsafeRawBufferPointer(rebasing: value[..<(value.count - 4)])
        let stored = UInt32(littleEndian: value.loadUnaligned(fromByteOffset: body.count, as: UInt32.self))
        guard stored == Checksum.of(key: key, body) else { return nil }
        rest = body
    }

    /// Key fields, big-endian.
    static func key<Value: FixedWidthInteger>(_ key: UnsafeRawBufferPointer, at offset: Int) -> Value {
        Value(bigEndian: key.loadUnaligned(fromByteOffset: offset, as: Value.self))
    }

    mutating func next<Value: FixedWidthInteger>(_ type: Value.Type = Value.self) -> Value? {
        guard let bytes = nextBytes(MemoryLayout<Value>.size) else { return nil }
        return Value(littleEndian: bytes.loadUnaligned(as: Value.self))
    }

    mutating func nextBytes(_ count: Int) -> UnsafeRawBufferPointer? {
        guard count >= 0, rest.count >= count else { return nil }
        let bytes = UnsafeRawBufferPointer(rebasing: rest[..<count])
        rest = UnsafeRawBufferPointer(rebasing: rest[count...])
        return bytes
    }

    var isAtEnd: Bool { rest.isEmpty }
}
