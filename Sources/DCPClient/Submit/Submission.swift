public import DCPCore
internal import DCPWire

/// Submits a file: prefill in chunks, then token by token, as an engine would, and collects the answers.
public struct Submission: Sendable {
    private let file: SubmitFile
    private let options: SubmitOptions
    private let outputPath: String?

    /// Opens and checks everything that can be checked without a cluster.
    /// - Parameter output: where `o` and `lse` are written, or nil.
    /// - Throws: `.invalidRequest`, naming file, tensor, value and remedy.
    public init(_ path: String, options: SubmitOptions, output: String?) throws(ServiceError) {
        file = try SubmitFile(path, layer: options.layer)
        self.options = options
        outputPath = output
        if let expected = options.expect { _ = try Expectation(expected, for: file) }
    }

    /// Steps over all layers: what `progress` counts.
    public var totalTokens: Int { file.tokens * file.layers.count }

    /// Runs the submission.
    /// - Parameter progress: called after each step with the tokens done, over all layers.
    /// - Throws: `.positionMismatch` before anything is sent, when the file does not begin where the sequence ends.
    public func run(on cluster: Cluster, progress: @Sendable (Int) -> Void) async throws(ServiceError)
        -> SubmissionReport
    {
        let modelName = SubmissionPlan.modelName(file, options)
        let known = try await cluster.model(named: modelName)
        let plan = try SubmissionPlan(file, options, modelName: modelName, known: known?.shape)
        try await cluster.registerModel(modelName, plan.shape)
        let sequence = try await cluster.openSequence(plan.sequenceName, model: modelName)
        let start = try await cluster.resume(sequence)
        let lengths = start.layerLengths
        for layer in file.layers {
            guard let position = plan.position, position != lengths[layer.index] else { continue }
            throw ServiceError(
                .positionMismatch,
                "The file starts at position \(position), but layer \(layer.index) of sequence `\(plan.sequenceName)` has "
                    + "\(lengths[layer.index]) tokens; send the tokens from \(lengths[layer.index]) on, or choose another "
                    + "--sequence.")
        }
        let expectation = try options.expect.map { (path) throws(ServiceError) in try Expectation(path, for: file) }
        let writer = try outputPath.map { (path) throws(ServiceError) in try makeWriter(path, plan) }
        var report = SubmissionReport(
            model: modelName, sequence: plan.sequenceName, tokens: file.tokens, prefillTokens: plan.prefill,
            committedLength: start.committedLength,
            layers: file.layers.map { SubmissionReport.Layer(layer: $0.index) })
        do throws(ServiceError) {
            try await send(plan, sequence, from: lengths, on: cluster, &report, writer, expectation, progress)
        } catch {
            var error = error
            error.message +=
                " Sequence `\(plan.sequenceName)` is committed up to \(report.committedLength) of "
                + "\((start.layerLengths.min() ?? 0) + file.tokens) tokens."
            throw error
        }
        try writer?.finish()
        let holdings = try await cluster.status(of: sequence)
        report.ranks = try await cluster.rankStatuses().map { ($0, holdings.localTokens[$0.rank] ?? 0) }
        return report
    }

    /// The steps, chunk by chunk and layer by layer, each chunk committed.
    private func send(
        _ plan: SubmissionPlan, _ sequence: SequenceHandle, from start: [Int], on cluster: Cluster,
        _ report: inout SubmissionReport, _ writer: SafetensorsWriter?, _ expectation: Expectation?,
        _ progress: @Sendable (Int) -> Void
    ) async throws(ServiceError) {
        var lengths = start
        let clock = ContinuousClock()
        var done = 0
        for tokens in plan.chunks {
            for (index, layer) in file.layers.enumerated() {
                let queries = try rows(layer.queries, tokens)
                let keys = try rows(layer.keys, tokens)
                let values = try rows(layer.values, tokens)
                let began = clock.now
                let answer = try await cluster.step(
                    layer: layer.index, [sequence.entry(position: lengths[layer.index], count: tokens.count)],
                    model: sequence.model, queries: queries, keys: keys, values: values, queryMode: options.queryMode)
                let duration = clock.now - began
                if tokens.lowerBound < plan.prefill {
                    report.prefillSteps.append(duration)
                } else {
                    report.decodeSteps.append(duration)
                }
                lengths[layer.index] += tokens.count
                try record(answer, tokens, layer, index, writer, expectation, &report)
                done += tokens.count
                progress(done)
            }
            // Durable is what every layer of the model has reached.
            if let reached = lengths.min(), reached > report.committedLength {
                let began = clock.now
                try await cluster.commit([SequenceLength(sequence: sequence.record.id, length: reached)])
                report.commits.append(clock.now - began)
                report.committedLength = reached
            }
        }
    }

    private func record(
        _ answer: AttentionOutput, _ tokens: Range<Int>, _ layer: SubmitFile.Layer, _ index: Int,
        _ writer: SafetensorsWriter?, _ expectation: Expectation?, _ report: inout SubmissionReport
    ) throws(ServiceError) {
        try writer?.append(answer.outputs, to: layer.prefix + "o")
        try writer?.append(answer.lse, to: layer.prefix + "lse")
        guard let expectation else { return }
        let outputError = try expectation.errorMax(of: answer.outputs, tensor: layer.prefix + "o", tokens: tokens)
        let lseError = try expectation.errorMax(of: answer.lse, tensor: layer.prefix + "lse", tokens: tokens)
        report.layers[index].outputErrorMax = max(report.layers[index].outputErrorMax ?? 0, outputError)
        report.layers[index].lseErrorMax = max(report.layers[index].lseErrorMax ?? 0, lseError)
    }

    private func rows(_ tensor: SafetensorsTensor, _ tokens: Range<Int>) throws(ServiceError) -> TokenRows {
        let bytes = try tensor.withRows(tokens) { (bytes) throws(ServiceError) in Array(bytes) }
        return TokenRows(
            dataType: tensor.dataType, tokens: tokens.count, heads: tensor.shape[1], dim: tensor.shape[2], bytes: bytes)
    }

    private func makeWriter(_ path: String, _ plan: SubmissionPlan) throws(ServiceError) -> SafetensorsWriter {
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
            metadata: ["model": plan.modelName, "sequence": plan.sequenceName, "lse": "natural logarithm"])
    }
}
