// SPDX-License-Identifier: Apache-2.0

internal import DCPClient
internal import DCPCore
internal import DCPSafetensors
internal import DCPWire

extension Cluster {
    /// Compares the stored tokens of a sequence with a file's keys and values, bit for bit as rounded by the cache.
    ///
    /// - Parameters:
    ///   - position: of the file's first token.
    ///   - end: up to here, at most the committed length.
    /// - Throws: `.conflict`, naming layer and tokens, where they differ.
    func compare(
        _ file: SubmitFile, from position: Int, with sequence: SequenceHandle, upTo end: Int
    ) async throws(ServiceError) {
        let description = sequence.model.description
        for layer in file.layers {
            for start in stride(from: position, to: end, by: description.transferTokens) {
                guard !Task.isCancelled else { throw ServiceError(.stepAborted, "The comparison was interrupted.") }
                let positions = start..<min(start + description.transferTokens, end)
                let stored = try await rows(of: sequence, layer: layer.index, positions: positions)
                let tokens = positions.lowerBound - position..<positions.upperBound - position
                let keys = try layer.keys.rounded(tokens, areKeys: true, description.kvFormat)
                let values = try layer.values?.rounded(tokens, areKeys: false, description.kvFormat) ?? []
                guard stored.keys == keys, stored.values == values else {
                    throw ServiceError(
                        .conflict,
                        "Sequence `\(sequence.record.name)` is not the beginning of \(file.path): layer \(layer.index) differs in "
                            + "positions \(positions.lowerBound)..<\(positions.upperBound). Choose another --sequence, or correct "
                            + "--position.")
                }
            }
        }
    }
}

extension SafetensorsTensor {
    /// Some rows' bytes as a cache of that format gives them back.
    fileprivate func rounded(
        _ rows: Range<Int>, areKeys: Bool, _ format: CacheFormat
    ) throws(ServiceError) -> [UInt8] {
        format.readBack(try withRows(rows) { Array($0) }, of: dataType, dim: shape.last ?? 1, areKeys: areKeys)
    }
}

extension CacheFormat {
    /// Rows of a dtype as bytes of the `rowType`, as a cache of this format gives them back.
    func readBack(_ rows: [UInt8], of dataType: DataType, dim: Int, areKeys: Bool) -> [UInt8] {
        guard hasScales || rowType != dataType else { return rows }
        return rowType.bytes(rounded(dataType.numbers(rows), dim: dim, areKeys: areKeys))
    }
}
