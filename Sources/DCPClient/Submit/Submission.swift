public import DCPCore
internal import DCPWire

/// Submits a file: prefill in chunks, then token by token, as an engine would, and collects the answers.
public struct Submission: Sendable {
    private let file: SubmitFile
    private let options: SubmitOptions
    private let writer: SafetensorsWriter?

    /// Opens and checks everything that can be checked without a cluster, and reserves the output's space.
    /// - Parameter output: where `o` and `lse` are written, or nil.
    /// - Throws: `.invalidRequest`, naming file, tensor, value and remedy.
    public init(_ path: String, options: SubmitOptions, output: String?) throws(ServiceError) {
        file = try SubmitFile(path, layer: options.layer)
        self.options = options
        let file = file
        writer = try output.map { (path) throws(ServiceError) in try Self.makeWriter(path, file, options) }
        if let expected = options.expect { _ = try Expectation(expected, for: file) }
    }

    /// Steps over all layers: what `progress` counts.
    public var totalTokens: Int { file.tokens * file.layers.count }

    /// Runs the submission, once, through outages of the cluster as long as `options.retryFor` allows.
    ///
    /// After an outage it goes on from what every rank holds. Tokens that a rank has lost, because they were not
    /// committed when it died, are sent again in the same steps: their answers, which are already written, would have
    /// the same bits, and are not written again. An answer that never came is asked for by sending its step again.
    /// - Parameters:
    ///   - progress: called after each step with the tokens answered, over all layers.
    ///   - resumed: called when an outage is over.
    /// - Throws: `.positionMismatch` before anything is sent, when the file does not begin where the sequence ends.
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
            let plan = try SubmissionPlan(file, options, modelName: modelName, known: known?.shape)
            try await cluster.registerModel(modelName, plan.shape)
            let sequence = try await cluster.openSequence(plan.sequenceName, model: modelName)
            return (plan, sequence, try await cluster.resume(sequence))
        }
        if let position = plan.position, position != start.length {
            throw ServiceError(
                .positionMismatch,
                "The file starts at position \(position), but sequence `\(plan.sequenceName)` has \(start.length) tokens; send "
                    + "the tokens from \(start.length) on, or choose another --sequence.")
        }
        let expectation = try options.expect.map { (path) throws(ServiceError) in try Expectation(path, for: file) }
        var transfer = SubmissionTransfer(
            file: file, plan: plan, sequence: sequence, queryMode: options.queryMode, start: start, writer: writer,
            expectation: expectation, outages: outages, progress: progress, resumed: resumed)
        do throws(ServiceError) {
            try await transfer.run(on: cluster)
        } catch {
            var error = error
            error.message +=
                " Sequence `\(plan.sequenceName)` is committed up to \(transfer.report.committedLength) of "
                + "\(start.length + file.tokens) tokens."
            throw error
        }
        try writer?.finish()
        transfer.report.missingLayers = plan.missingLayers
        // All is committed and written. What cannot be asked now is no failure of that, and nothing to wait for.
        do throws(ServiceError) {
            let holdings = try await cluster.status(of: sequence)
            transfer.report.ranks = try await cluster.rankStatuses().map { ($0, holdings.localTokens[$0.rank] ?? 0) }
        } catch {
            transfer.report.ranksFailure = error
        }
        return transfer.report
    }

    private static func makeWriter(
        _ path: String, _ file: SubmitFile, _ options: SubmitOptions
    ) throws(ServiceError) -> SafetensorsWriter {
        let tensors = file.layers.flatMap { layer in
            [
                SafetensorsWriter.Declaration(
                    name: layer.prefix + "o", dataType: .float32,
                    shape: [file.tokens, file.queryHeads, file.valueDim]),
                SafetensorsWriter.Declaration(
                    name: layer.prefix + "lse", dataType: .float32, shape: [file.tokens, file.queryHeads]),
            ]
        }
        return try SafetensorsWriter(
            path: path, tensors: tensors,
            metadata: [
                "model": SubmissionPlan.modelName(file, options),
                "sequence": SubmissionPlan.sequenceName(file, options), "lse": "natural logarithm",
            ])
    }
}
