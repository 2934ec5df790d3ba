// SPDX-License-Identifier: Apache-2.0

public import DCPClient
public import DCPCore
internal import DCPFiles
internal import DCPSafetensors
internal import DCPWire

/// The result of a transfer.
public struct TransferReport: Sendable {
    public let sequence: String
    public let model: String
    public let layers: Int
    /// Tokens of the sequence.
    public let tokens: Int
    /// Tokens that an import found in place already.
    public var tokensKept = 0
    /// Bytes of keys and values in the file.
    public let byteCount: Int

    init(sequence: String, model: ModelRecord, tokens: Int, byteCount: Int) {
        self.sequence = sequence
        self.model = model.name
        layers = model.description.layers
        self.tokens = tokens
        self.byteCount = byteCount
    }
}

extension ModelDescription {
    /// How many tokens of one layer are moved at once: some megabytes, at least one token.
    var transferTokens: Int {
        let largest = kinds.reduce(1) { max($0, $1.rowByteCount(kvFormat.rowType)) }
        return min(max((8 << 20) / largest, 1), StepRequest.tokensMax)
    }
}

extension Cluster {
    /// Writes the committed tokens of a sequence to a file, which appears under its name complete or not at all.
    ///
    /// It uses some megabytes of memory, whatever the length. Steps on the sequence continue; tokens committed
    /// meanwhile are not in the file.
    /// - Parameters:
    ///   - dataType: of the rows in the file. nil is the cache's own form: bytes with scales for `int8` and `fp8`. It keeps
    ///     every bit, as a dtype does that is as wide as the cache's rows; a narrower one rounds.
    ///   - progress: called with the tokens done of the tokens there are, over all layers.
    /// - Throws: `.conflict` if the sequence was cut meanwhile or a rank came back: the file would mix two states;
    ///   `.invalidRequest` for a number that the dtype cannot hold.
    public func export(
        _ name: String, to path: String, as dataType: DataType? = nil,
        progress: @Sendable (_ done: Int, _ total: Int) -> Void = { _, _ in }
    ) async throws(ServiceError) -> TransferReport {
        let sequence = try await openSequence(name, model: nil)
        let description = sequence.model.description
        let rowsWriter = RowsWriter(description.kvFormat, as: dataType)
        let there = try await status(of: sequence)
        let length = there.committedLength
        // One row first: ids and annotation are then of its version, or the version of the rows has changed.
        var version = length > 0 ? try await rows(of: sequence, layer: 0, positions: 0..<1).version : nil
        let ids = length > 0 && there.tokenIDs >= length ? try await tokenIDs(of: sequence.record.id, 0..<length) : nil
        let writer = try SequenceFile.writer(
            path, of: sequence, length: length, rowsWriter, tokenIDs: ids,
            annotation: try await annotation(of: sequence.record.id))
        var done = 0
        for layer in 0..<description.layers {
            for start in stride(from: 0, to: length, by: description.transferTokens) {
                try checkNotCancelled()
                let positions = start..<min(start + description.transferTokens, length)
                let rows = try await rows(of: sequence, layer: layer, positions: positions)
                guard version == nil || version == rows.version else {
                    throw ServiceError(
                        .conflict,
                        "Sequence `\(name)` was truncated, or a rank came back, during the export; \(path) was not "
                            + "written. Export it again.")
                }
                version = rows.version
                let (keyDim, valueDim) = (description[layer].keyDim, description[layer].ownValueDim)
                try rowsWriter.append(rows.keys, to: SequenceFile.keys(layer), dim: keyDim, areKeys: true, writer)
                if valueDim > 0 {
                    try rowsWriter.append(
                        rows.values, to: SequenceFile.values(layer), dim: valueDim, areKeys: false, writer)
                }
                done += positions.count
                progress(done, length * description.layers)
            }
        }
        try writer.finish()
        return TransferReport(
            sequence: name, model: sequence.model, tokens: length,
            byteCount: length * rowsWriter.tokenByteCount(description))
    }

    func checkNotCancelled() throws(ServiceError) {
        guard !Task.isCancelled else { throw ServiceError(.stepAborted, "The transfer was interrupted.") }
    }
}
