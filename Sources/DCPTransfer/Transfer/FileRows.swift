// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPSafetensors

/// Keys or values of one layer in a sequence file: rows of a dtype, or bytes with a scale for each token and KV head.
struct FileRows: Sendable {
    private enum Content: Sendable {
        case rows(SafetensorsTensor)
        /// Bytes `[T][heads][dim]` as a cache of the format keeps them.
        case scaled(
            SafetensorsFile, SafetensorsEntry, scales: SafetensorsTensor, words: SafetensorsEntry?, CacheFormat)
    }

    private let content: Content
    private let heads: Int
    private let dim: Int
    private let areRotated: Bool

    /// The scales beside a tensor of bytes.
    static func scales(_ name: String) -> String { name + "_scale" }
    /// The words beside keys in I8.
    static func words(_ name: String) -> String { name + "_apart" }

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
        let words = format.hasWords ? file.entry(named: Self.words(name)) : nil
        if let words {
            try check(Self.words(name), words.shape, [shape[0], heads])
            guard words.dataType == .uint32 else {
                throw ServiceError(
                    .invalidRequest,
                    "\(file.path): tensor \(Self.words(name)) is \(words.dataType.rawValue), not U32; export the "
                        + "sequence again.")
            }
        }
        content = .scaled(file, entry, scales: scales, words: words, format)
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
        case .scaled(_, let entry, let scales, let words, _):
            entry.byteRange.count + scales.byteCount + (words?.byteRange.count ?? 0)
        }
    }

    /// The rows of some tokens, `[tokens][heads][dim]` in `dataType`; exactly the numbers in the file, with the rotation
    /// undone and words added in Float32.
    /// - Throws: `.invalidRequest` for a word that names no dimension, and when the file cannot be read.
    func rows(_ tokens: Range<Int>) throws(ServiceError) -> [UInt8] {
        switch content {
        case .rows(let tensor):
            return try tensor.withRows(tokens) { (bytes) throws(ServiceError) in Array(bytes) }
        case .scaled(let file, let entry, let scales, let words, let format):
            let rowByteCount = heads * dim
            let scaled = ScaledRows(
                bytes: try file.bytes(of: entry, tokens.lowerBound * rowByteCount..<tokens.upperBound * rowByteCount),
                scales: try scales.floats(rows: tokens),
                words: try words.map { (words) throws(ServiceError) in try self.words(tokens, words, file) } ?? [])
            return DataType.float32.bytes(format.numbers(scaled, dim: dim, areRotated: areRotated))
        }
    }

    private func words(
        _ tokens: Range<Int>, _ entry: SafetensorsEntry, _ file: SafetensorsFile
    ) throws(ServiceError) -> [UInt32] {
        let words = try file.words(of: entry, tokens.lowerBound * heads * 4..<tokens.upperBound * heads * 4)
        if let word = words.first(where: { $0 != 0 && WordApart.dim($0) >= dim }) {
            throw ServiceError(
                .invalidRequest,
                "\(file.path): a word of tensor \(entry.name) names dimension \(WordApart.dim(word)) of \(dim); the file is "
                    + "damaged; export the sequence again.")
        }
        return words
    }
}
