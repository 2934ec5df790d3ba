// SPDX-License-Identifier: Apache-2.0

public import DCPClient
public import DCPCore
internal import DCPSafetensors
internal import DCPWire

/// Submits a file like an engine: prefill in chunks, then token by token, and collects the answers.
public struct Submission: Sendable {
    private let file: SubmitFile
    private let options: SubmitOptions
    private let output: String?
    /// nil also until it is known where to go on from.
    private let writer: SafetensorsWriter?

    /// Opens and checks everything that can be checked without a cluster, and reserves the output's space.
    /// - Parameter output: where `o` and `lse` are written, or nil.
    /// - Throws: `.invalidRequest`, naming file, tensor, value and remedy.
    public init(_ path: String, options: SubmitOptions, output: String?) throws(ServiceError) {
        file = try SubmitFile(path, layer: options.layer, model: options.description)
        self.options = options
        self.output = output
        let file = file
        let earlyOutput = options.continues ? nil : output
        writer = try earlyOutput.map { (path) throws(ServiceError) in
            try Self.makeWriter(path, file, options, tokens: 0..<file.tokens)
        }
        if let expected = options.expect { _ = try Expectation(expected, for: file) }
    }

    public var tokens: Int { file.tokens }
    /// Each token is answered in so many layers.
    public var layers: Int { file.layers.count }

    /// Runs the submission, once, through outages of the cluster as long as `options.retryFor` allows.
    ///
    /// After an outage it continues from the length that every rank has. Uncommitted tokens of a rank that died are
    /// sent again in the same steps: their answers, which are already written, have the same bits and are not written
    /// again. To get a missing answer, its step is sent again.
    /// - Parameters:
    ///   - progress: called after each step with the answered number of the `tokens * layers`.
    ///   - resumed: called when an outage is over.
    /// - Throws: `.positionMismatch` before anything is sent, if the file does not begin where the sequence ends, or
    ///   does not reach there; `.conflict` if the stored tokens differ from the file's beginning.
    public func run(
        on cluster: Cluster, progress: @escaping @Sendable (Int) -> Void,
        resumed: @escaping @Sendable (SubmissionReport.Resume) -> Void = { _ in }
    ) async throws(ServiceError) -> SubmissionReport {
        var outages = Outages(allowance: options.retryFor)
        let modelName = SubmissionPlan.modelName(file, options)
        let (file, options) = (file, options)
        let (plan, sequence, start) = try await cluster.persistently(&outages) {
            () async throws(ServiceError) -> (SubmissionPlan, SequenceHandle, SequenceProgress) in
            let known = try await cluster.model(named: modelName)
            let plan = try SubmissionPlan(file, options, modelName: modelName, known: known?.description)
            try await cluster.registerModel(modelName, plan.description)
            let sequence = try await cluster.openSequence(
                plan.sequenceName, model: modelName, revision: plan.description.revision)
            // Only what is committed can be compared with the file.
            let progress = try await cluster.resume(sequence, atMost: options.continues ? 0 : nil)
            return (plan, sequence, progress)
        }
        let kept = try await kept(of: sequence, start, plan, on: cluster)
        var writer = writer
        if let output, writer == nil {
            writer = try Self.makeWriter(output, file, options, tokens: kept..<file.tokens)
        }
        let expectation = try options.expect.map { (path) throws(ServiceError) in try Expectation(path, for: file) }
        var transfer = SubmissionTransfer(
            file: file, plan: plan, sequence: sequence, queryMode: options.queryMode, start: start, kept: kept,
            writer: writer,
            expectation: expectation, outages: outages, progress: progress, resumed: resumed)
        do throws(ServiceError) {
            try await transfer.run(on: cluster)
        } catch {
            var error = error
            error.message +=
                " Sequence `\(plan.sequenceName)` is committed up to \(transfer.report.committedLength) of "
                + "\(start.length + file.tokens - kept) tokens."
            throw error
        }
        try writer?.finish()
        transfer.report.missingLayers = plan.missingLayers
        // Everything is committed and written. A failing status request does not change that, and is not worth waiting
        // for.
        do throws(ServiceError) {
            let holdings = try await cluster.status(of: sequence)
            transfer.report.ranks = try await cluster.rankStatuses().map { ($0, holdings.localTokens[$0.rank] ?? 0) }
        } catch {
            transfer.report.ranksFailure = error
        }
        return transfer.report
    }

    /// How many of the file's tokens are there already.
    private func kept(
        of sequence: SequenceHandle, _ start: SequenceProgress, _ plan: SubmissionPlan, on cluster: Cluster
    ) async throws(ServiceError) -> Int {
        guard options.continues else {
            guard let position = plan.position, position != start.length else { return 0 }
            throw ServiceError(
                .positionMismatch,
                "The file starts at position \(position), but sequence `\(plan.sequenceName)` has \(start.length) "
                    + "tokens; send only the tokens from \(start.length) on, continue in the file with --continue, "
                    + "or choose another --sequence."
            )
        }
        let position = plan.position ?? 0
        guard (position...position + file.tokens).contains(start.length) else {
            throw ServiceError(
                .positionMismatch,
                "Sequence `\(plan.sequenceName)` has \(start.length) committed tokens, but the file has those at "
                    + "\(position)..<\(position + file.tokens), so it cannot continue the sequence. Correct "
                    + "--position, or choose another --sequence.")
        }
        try await cluster.compare(file, from: position, with: sequence, upTo: start.length)
        return start.length - position
    }

    private static func makeWriter(
        _ path: String, _ file: SubmitFile, _ options: SubmitOptions, tokens: Range<Int>
    ) throws(ServiceError) -> SafetensorsWriter {
        let tensors = file.layers.flatMap { layer in
            [
                SafetensorsWriter.Declaration(
                    name: layer.prefix + "o", dataType: .float32,
                    shape: [tokens.count, layer.queryHeads, layer.valueDim]),
                SafetensorsWriter.Declaration(
                    name: layer.prefix + "lse", dataType: .float32, shape: [tokens.count, layer.queryHeads]),
            ]
        }
        return try SafetensorsWriter(
            path: path, tensors: tensors,
            metadata: [
                "model": SubmissionPlan.modelName(file, options),
                "sequence": SubmissionPlan.sequenceName(file, options), "lse": "natural logarithm",
                "first_token": "\(tokens.lowerBound)",
            ])
    }
}
