// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPFiles
internal import DCPSafetensors

/// Writes keys and values into the tensors of a sequence file: in the cache's own form, or as rows of another dtype.
struct RowsWriter: Sendable {
    private enum Form: Sendable {
        /// As they are read.
        case asRead
        /// Bytes and scales, and words of keys.
        case scaled
        case rounded(to: DataType)
    }

    private let format: CacheFormat
    private let form: Form

    /// - Parameter dataType: of the rows in the file; nil for the cache's own form.
    init(_ format: CacheFormat, as dataType: DataType?) {
        self.format = format
        form =
            switch dataType {
            case nil: format.hasScales ? .scaled : .asRead
            case format.rowType?: .asRead
            case let dataType?: .rounded(to: dataType)
            }
    }

    /// Whether keys are written as `int8` rotates them.
    var rotatesKeys: Bool {
        if case .scaled = form { format == .int8 } else { false }
    }

    /// The dtype of rows in the file; nil if it has bytes and scales.
    private var fileType: DataType? {
        switch form {
        case .asRead: format.rowType
        case .scaled: nil
        case .rounded(let dataType): dataType
        }
    }

    /// Keys and values of one token in all layers.
    func tokenByteCount(_ description: ModelDescription) -> Int {
        guard let fileType else { return description.keptByteCount }
        return (0..<description.layers).reduce(0) { $0 + description[$1].rowByteCount(fileType) }
    }

    /// The tensors of a name.
    /// - Parameter shape: `[T, heads, dim]`
    func declarations(_ name: String, shape: [Int], areKeys: Bool) -> [SafetensorsWriter.Declaration] {
        if let fileType { return [.init(name: name, dataType: fileType, shape: shape)] }
        let words = SafetensorsWriter.Declaration(
            name: FileRows.words(name), elements: .uint32, shape: Array(shape.dropLast()))
        return [
            .init(name: name, elements: FileRows.elements(format)!, shape: shape),
            .init(name: FileRows.scales(name), dataType: .float32, shape: Array(shape.dropLast())),
        ] + (format.hasWords && areKeys ? [words] : [])
    }

    /// Writes the next rows of a tensor.
    /// - Parameter rows: `[tokens][heads][dim]` as the cache gives them back.
    /// - Throws: `.invalidRequest` for a number that the file's dtype cannot hold, and when the disk fails.
    func append(
        _ rows: [UInt8], to name: String, dim: Int, areKeys: Bool, _ writer: SafetensorsWriter
    ) throws(ServiceError) {
        func write(_ bytes: [UInt8], _ name: String) throws(ServiceError) {
            try bytes.lendBytes { (bytes) throws(ServiceError) in try writer.append(bytes, to: name) }
        }
        switch form {
        case .asRead: try write(rows, name)
        case .scaled:
            let scaled = format.scaled(format.rowType.numbers(rows), dim: dim, areKeys: areKeys)
            try write(scaled.bytes, name)
            try writer.append(scaled.scales, to: FileRows.scales(name))
            guard !scaled.words.isEmpty else { return }
            try scaled.words.map(\.littleEndian).lendBytes { (bytes) throws(ServiceError) in
                try writer.append(bytes, to: FileRows.words(name))
            }
        case .rounded(let to):
            let numbers = format.rowType.numbers(rows)
            if let number = numbers.first(where: { abs($0) > to.inputMagnitudeMax }) {
                throw ServiceError(
                    .invalidRequest,
                    "\(writer.path): \(name) has \(number), which \(to.name) cannot hold: its limit is "
                        + "\(to.inputMagnitudeMax). Export it in another dtype, such as f32.")
            }
            try write(to.bytes(numbers), name)
        }
    }
}
