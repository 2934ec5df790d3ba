// SPDX-License-Identifier: Apache-2.0

public import DCPCore

/// One tensor of an open file, of a dtype that attention computes with. A value that keeps its file open.
public struct SafetensorsTensor: Sendable {
    public let dataType: DataType
    private let file: SafetensorsFile
    private let entry: SafetensorsEntry

    init(file: SafetensorsFile, entry: SafetensorsEntry, dataType: DataType) {
        self.file = file
        self.entry = entry
        self.dataType = dataType
    }

    public var name: String { entry.name }
    /// Row-major; empty for a scalar.
    public var shape: [Int] { entry.shape }
    public var byteCount: Int { entry.byteRange.count }
    public var elementCount: Int { byteCount / dataType.byteCount }
    /// The first dimension: for q, k and v the tokens. 1 for a scalar.
    public var rowCount: Int { shape.first ?? 1 }
    /// Bytes of one index of the first dimension.
    public var rowByteCount: Int { rowCount == 0 ? 0 : byteCount / rowCount }

    /// Reads the whole tensor and lends its bytes: row-major, little-endian, 64-byte aligned, valid inside the closure.
    /// - Throws: `.invalidRequest` when the file cannot be read, or what `body` throws.
    public func withBytes<Result>(
        _ body: (UnsafeRawBufferPointer) throws(ServiceError) -> Result
    ) throws(ServiceError) -> Result {
        try withBytes(0..<byteCount, body)
    }

    /// Reads some rows and lends their bytes: row-major, little-endian, 64-byte aligned, valid inside the closure.
    /// - Parameter rows: inside `0..<rowCount`, or the process traps.
    /// - Throws: `.invalidRequest` when the file cannot be read, or what `body` throws.
    public func withRows<Result>(
        _ rows: Range<Int>, _ body: (UnsafeRawBufferPointer) throws(ServiceError) -> Result
    ) throws(ServiceError) -> Result {
        precondition(rows.lowerBound >= 0 && rows.upperBound <= rowCount)
        return try withBytes(rows.lowerBound * rowByteCount..<rows.upperBound * rowByteCount, body)
    }

    /// Reads some rows as Float32; exact for every dtype of a row.
    public func floats(rows: Range<Int>) throws(ServiceError) -> [Float] {
        try withRows(rows) { bytes in
            (0..<bytes.count / dataType.byteCount).map { dataType.float(at: $0, of: bytes) }
        }
    }

    private func withBytes<Result>(
        _ range: Range<Int>, _ body: (UnsafeRawBufferPointer) throws(ServiceError) -> Result
    ) throws(ServiceError) -> Result {
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: range.count, alignment: 64)
        defer { buffer.deallocate() }
        try file.read(dataOffset: entry.byteRange.lowerBound + range.lowerBound, into: buffer)
        return try body(UnsafeRawBufferPointer(buffer))
    }
}

// MARK: Values that are not finite

/// The first value of a tensor that is NaN or infinite.
public struct NonFiniteValue: Hashable, Sendable, CustomStringConvertible {
    public let tensor: String
    /// One index for each dimension; empty for a scalar.
    public let index: [Int]
    public let value: Float

    /// `layers.1.k[17, 2, 40] is NaN`
    public var description: String {
        let place = index.isEmpty ? "" : "[" + index.map(String.init).joined(separator: ", ") + "]"
        return "\(tensor)\(place) is \(value.isNaN ? "NaN" : value < 0 ? "-infinity" : "infinity")"
    }

    /// The error that refuses such a tensor.
    public func error(file: String) -> ServiceError {
        ServiceError(
            .invalidRequest,
            "\(file): \(self), which would make the attention of the whole sequence NaN; find where the model "
                + "overflows, or write the tensor as F32.")
    }

    // NaN differs from itself, but two reports of the same place and bits are the same report.
    public static func == (a: NonFiniteValue, b: NonFiniteValue) -> Bool {
        a.tensor == b.tensor && a.index == b.index && a.value.bitPattern == b.value.bitPattern
    }

    public func hash(into hasher: inout Hasher) {
        hasher.combine(tensor)
        hasher.combine(index)
        hasher.combine(value.bitPattern)
    }
}

extension SafetensorsTensor {
    /// Reads the tensor in pieces of a bounded size and finds its first NaN or infinite value; nil when all are finite.
    /// - Throws: `.invalidRequest` when the file cannot be read.
    public func firstNonFiniteValue() throws(ServiceError) -> NonFiniteValue? {
        let pieceByteCount = 1 << 20
        var start = 0
        while start < byteCount {
            let end = min(start + pieceByteCount, byteCount)
            let found: (offset: Int, value: Float)? = try withBytes(start..<end) { bytes in
                dataType.firstNonFinite(in: bytes).map { ($0, dataType.float(at: $0, of: bytes)) }
            }
            if let found {
                let element = start / dataType.byteCount + found.offset
                return NonFiniteValue(tensor: name, index: index(ofElement: element), value: found.value)
            }
            start = end
        }
        return nil
    }

    private func index(ofElement element: Int) -> [Int] {
        var rest = element
        var index: [Int] = []
        for dimension in shape.reversed() {
            index.append(rest % dimension)
            rest /= dimension
        }
        return index.reversed()
    }
}

extension DataType {
    /// The index of the first element whose exponent is all ones.
    package func firstNonFinite(in bytes: UnsafeRawBufferPointer) -> Int? {
        func first<Bits: FixedWidthInteger>(exponent: Bits) -> Int? {
            let width = MemoryLayout<Bits>.size
            return (0..<bytes.count / width).first {
                bytes.loadUnaligned(fromByteOffset: $0 * width, as: Bits.self) & exponent == exponent
            }
        }
        switch self {
        case .bfloat16: return first(exponent: 0x7f80 as UInt16)
        case .float16: return first(exponent: 0x7c00 as UInt16)
        case .float32: return first(exponent: 0x7f80_0000 as UInt32)
        }
    }
}
