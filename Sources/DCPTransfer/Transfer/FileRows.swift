// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPSafetensors

/// Keys or values of one layer in a sequence file: rows of a dtype, or bytes with a scale for each token and KV head.
struct FileRows: Sendable {
    private enum Content: Sendable {
        case rows(SafetensorsTensor)
        /// Bytes `[T][heads][dim]` as a cache of the format keeps them.
        case scaled(SafetensorsFile, SafetensorsEntry, scales: SafetensorsTensor, CacheFormat)
    }

    private let content: Content
    private let heads: Int
    private let dim: Int
    private let areRotated: Bool

    /// The scales beside a tensor of bytes.
    static func scales(_ name: String) -> String { name + "_scale" }

    /// The dtype of a tensor of bytes; nil for formats that keep rows.
    static func elements(_ format: CacheFormat) -> SafetensorsDataType? {
        switch format {
        case .bfloat16, .float16, .float32: nil
        case .int8: .int8
        case .fp8: .float8E4M3
        }
    }

    /// - Parameters:
    ///   - shape: `[T, heads, dim]`, as the model has it.
    ///   - areRotated: whether bytes of `int8` are rotated, as a cache keeps its keys.
    /// - Throws: `.invalidRequest`, naming file, tensor, value and remedy.
    init(_ name: String, of file: SafetensorsFile, shape: [Int], areRotated: Bool) throws(ServiceError) {
        (heads, dim, self.areRotated) = (shape[1], shape[2], areRotated)
        func check(_ name: String, _ found: [Int], _ expected: [Int]) throws(ServiceError) {
            guard found != expected else { return }
            throw ServiceError(
                .invalidRequest,
                "\(file.path): tensor \(name) is \(found), but the metadata says \(expected); export the sequence "
                    + "again.")
        }
        let entry = file.entry(named: name)
        let format = CacheFormat.allCases.first { $0.hasScales && Self.elements($0) == entry?.dataType }
        guard let entry, let format else {
            let tensor = try file.tensor(named: name)
            try check(name, tensor.shape, shape)
            content = .rows(tensor)
            return
        }
        let scales = try file.tensor(named: Self.scales(name))
        try check(name, entry.shape, shape)
        try check(scales.name, scales.shape, [shape[0], heads])
        content = .scaled(file, entry, scales: scales, format)
    }

    /// Of what `rows` returns.
    var dataType: DataType {
        switch content {
        case .rows(let tensor): tensor.dataType
        case .scaled: .float32
        }
    }

    /// In the file.
    var byteCount: Int {
        switch content {
        case .rows(let tensor): tensor.byteCount
        case .scaled(_, let entry, let scales, _): entry.byteRange.count + scales.byteCount
        }
    }

    /// The rows of some tokens, `[tokens][heads][dim]` in `dataType`; exactly the numbers in the file, with the rotation
    /// undone in Float32.
    func rows(_ tokens: Range<Int>) throws(ServiceError) -> [UInt8] {
        switch content {
        case .rows(let tensor):
            return try tensor.withRows(tokens) { (bytes) throws(ServiceError) in Array(bytes) }
        case .scaled(let file, let entry, let scales, let format):
            let rowByteCount = heads * dim
            let scaled = ScaledRows(
                bytes: try file.bytes(of: entry, tokens.lowerBound * rowByteCount..<tokens.upperBound * rowByteCount),
                scales: try scales.floats(rows: tokens))
            return DataType.float32.bytes(format.numbers(scaled, dim: dim, areRotated: areRotated))
        }
    }
}
