// SPDX-License-Identifier: Apache-2.0

public import DCPClient
public import DCPCore
internal import DCPWire

/// Where an import goes.
public struct ImportOptions: Sendable {
    /// The sequence's name; the file's unless given.
    public var name: String?
    /// The model's name; the file's unless given. Registered when it is not known.
    public var model: String?
    /// Continues an incomplete import, after comparing the stored tokens with the file.
    public var resume = false

    public init() {}
}

extension Cluster {
    /// Creates a sequence from a file that `export` wrote, on any shape of cluster: its keys and values are bit for bit
    /// those of the exported one, unless the export rounded them. Rows of another dtype than the cache's are rounded.
    ///
    /// It commits chunk by chunk. After a failure the sequence is intact up to its committed length, which the error
    /// states; the same call with `resume` continues from there.
    /// - Parameter progress: called with the tokens done of the tokens there are, over all layers.
    /// - Throws: `.conflict` if the sequence exists and is not empty, or differs from the file's beginning;
    ///   `.modelMismatch` if the model is registered with another revision or description.
    public func importSequence(
        _ file: SequenceFile, _ options: ImportOptions = ImportOptions(),
        progress: @Sendable (_ done: Int, _ total: Int) -> Void = { _, _ in }
    ) async throws(ServiceError) -> TransferReport {
        let name = options.name ?? file.sequence
        let model = try await registerModel(options.model ?? file.model, file.description)
        let sequence = try await openSequence(
            name, model: model.name, revision: file.description.revision, scope: file.scope)
        let kept = try await begin(file, sequence, options)
        var committed = kept
        do throws(ServiceError) {
            try await commitIDs(of: file, upTo: kept, to: sequence)
            var done = kept * file.description.layers
            for tokens in file.chunks(from: kept) {
                for layer in 0..<file.description.layers {
                    try checkNotCancelled()
                    try await append(file, tokens, layer: layer, to: sequence)
                    done += tokens.count
                    progress(done, file.length * file.description.layers)
                }
                let ids = file.tokenIDs.map { TokenIDs(start: tokens.lowerBound, ids: Array($0[tokens])) }
                try await commit([
                    SequenceCommit(sequence: sequence.record.id, length: tokens.upperBound, tokens: ids)
                ])
                committed = tokens.upperBound
            }
            if let annotation = file.annotation {
                try await commit([
                    SequenceCommit(sequence: sequence.record.id, length: file.length, annotation: annotation)
                ])
            }
        } catch {
            var error = error
            error.message +=
                " Sequence `\(name)` is committed up to \(committed) of the file's \(file.length) tokens: continue "
                + "with --resume, or delete it with `dcpctl sequence close`."
            throw error
        }
        var report = TransferReport(sequence: name, model: model, tokens: file.length, byteCount: file.byteCount)
        report.tokensKept = kept
        return report
    }

    /// - Returns: how many of the file's tokens are there already.
    private func begin(
        _ file: SequenceFile, _ sequence: SequenceHandle, _ options: ImportOptions
    ) async throws(ServiceError) -> Int {
        let name = sequence.record.name
        let there = try await status(of: sequence)
        let longest = max(there.committedLength, there.layerLengths.max() ?? 0)
        guard longest > 0 else { return 0 }
        guard options.resume, there.committedLength <= file.length else {
            throw ServiceError(
                .conflict,
                "Sequence `\(name)` exists with \(longest) tokens"
                    + (options.resume
                        ? ", the file has \(file.length)" : "; continue an interrupted import with --resume")
                    + "; import under another --name, or delete it with `dcpctl sequence close`.")
        }
        // What an interrupted import appended and did not commit.
        try await cut(name, to: there.committedLength)
        for layer in 0..<file.description.layers {
            for start in stride(from: 0, to: there.committedLength, by: file.description.transferTokens) {
                try checkNotCancelled()
                let tokens = start..<min(start + file.description.transferTokens, there.committedLength)
                let stored = try await rows(of: sequence, layer: layer, positions: tokens)
                let wanted = try file.rowsReadBack(layer: layer, tokens)
                guard stored.keys == wanted.keys, stored.values == wanted.values else {
                    throw ServiceError(
                        .conflict,
                        "Sequence `\(name)` is not the beginning of \(file.path): layer \(layer) differs in tokens "
                            + "\(tokens.lowerBound)..<\(tokens.upperBound); import under another --name, or delete it first."
                    )
                }
            }
        }
        return there.committedLength
    }

    /// Compares the ids of tokens that are there with the file's on every rank, and adds them where there are none.
    private func commitIDs(
        of file: SequenceFile, upTo end: Int, to sequence: SequenceHandle
    ) async throws(ServiceError) {
        guard let ids = file.tokenIDs, end > 0 else { return }
        // A sequence has the ids of all its tokens or none, so that the first ones come at once.
        let hasIDs = try await status(of: sequence).tokenIDs > 0
        let count = hasIDs ? ReadTokens.countMax : end
        for start in stride(from: 0, to: end, by: count) {
            try checkNotCancelled()
            let some = TokenIDs(start: start, ids: Array(ids[start..<min(start + count, end)]))
            try await commit([SequenceCommit(sequence: sequence.record.id, length: end, tokens: some)])
        }
    }

    private func append(
        _ file: SequenceFile, _ tokens: Range<Int>, layer: Int, to sequence: SequenceHandle
    ) async throws(ServiceError) {
        let rows = try file.rows(layer: layer, tokens)
        let attention = file.description[layer]
        let dataType = file.keys[layer].dataType
        try await append(
            layer: layer, [sequence.entry(position: tokens.lowerBound, count: tokens.count)], model: sequence.model,
            keys: TokenRows(
                dataType: dataType, tokens: tokens.count, heads: attention.kvHeads, dim: attention.keyDim,
                bytes: rows.keys
            ),
            values: attention.ownValueDim == 0
                ? nil
                : TokenRows(
                    dataType: dataType, tokens: tokens.count, heads: attention.kvHeads, dim: attention.valueDim,
                    bytes: rows.values))
    }
}

extension SequenceFile {
    /// Bytes that all layers of a chunk may wait on the ranks to be committed.
    private static var uncommittedByteCount: Int { 256 << 20 }

    /// What is appended, layer by layer, and then committed.
    fileprivate func chunks(from start: Int) -> [Range<Int>] {
        let tokens = max(min(description.transferTokens, Self.uncommittedByteCount / description.rowByteCount), 1)
        return stride(from: start, to: length, by: tokens).map { $0..<min($0 + tokens, length) }
    }
}
