// SPDX-License-Identifier: Apache-2.0

internal import DCPClient
internal import DCPCore
internal import DCPSafetensors
internal import DCPWire

/// The steps and commits of a submission, chunk by chunk and layer by layer, resumed from the ranks' length after each
/// failure.
struct SubmissionTransfer {
    let file: SubmitFile
    let plan: SubmissionPlan
    let sequence: SequenceHandle
    let queryMode: StepRequest.QueryMode?
    let writer: SafetensorsWriter?
    let expectation: Expectation?
    let progress: @Sendable (Int) -> Void
    let resumed: @Sendable (SubmissionReport.Resume) -> Void
    private(set) var outages: Outages
    var report: SubmissionReport

    /// Where the file's first token is.
    private let start: Int
    /// How many of the file's tokens were there before.
    private let kept: Int
    /// Per layer of the model, where it ends on every rank.
    private var lengths: [Int]
    /// Per layer of the file, how many of its tokens have their answers.
    private var answered: [Int]

    init(
        file: SubmitFile, plan: SubmissionPlan, sequence: SequenceHandle, queryMode: StepRequest.QueryMode?,
        start: SequenceProgress, kept: Int, writer: SafetensorsWriter?, expectation: Expectation?, outages: Outages,
        progress: @escaping @Sendable (Int) -> Void, resumed: @escaping @Sendable (SubmissionReport.Resume) -> Void
    ) {
        self.file = file
        self.plan = plan
        self.sequence = sequence
        self.queryMode = queryMode
        self.writer = writer
        self.expectation = expectation
        self.outages = outages
        self.progress = progress
        self.resumed = resumed
        self.start = start.length - kept
        self.kept = kept
        lengths = start.layerLengths
        answered = file.layers.map { _ in kept }
        report = SubmissionReport(
            model: plan.modelName, sequence: plan.sequenceName, tokens: file.tokens, prefillTokens: plan.prefill,
            committedLength: start.committedLength,
            layers: file.layers.map { SubmissionReport.Layer(layer: $0.index) })
        report.keptTokens = kept
    }

    /// Sends what is missing until all is there, through outages.
    mutating func run(on cluster: Cluster) async throws(ServiceError) {
        while true {
            let failure: ServiceError
            do throws(ServiceError) {
                return try await sendMissing(to: cluster)
            } catch {
                failure = error
            }
            try await resume(after: failure, on: cluster)
        }
    }

    private mutating func resume(after failure: ServiceError, on cluster: Cluster) async throws(ServiceError) {
        let answered = start + (answered.min() ?? 0)
        let found = try await cluster.resume(sequence, after: failure, answered: answered, &outages)
        guard found.length >= start + kept else {
            // Lost earlier tokens: they were not committed, or a rank's disk has lost them.
            throw ServiceError(
                .positionMismatch,
                "Sequence `\(plan.sequenceName)` has fallen back to \(found.length) tokens, but this submission "
                    + "began at \(start + kept): the tokens between are lost. Send those again, then continue in "
                    + "this file with --continue."
            )
        }
        lengths = found.layerLengths
        report.committedLength = found.committedLength
    }

    /// One pass over the chunks; layers that hold a chunk already are left out.
    private mutating func sendMissing(to cluster: Cluster) async throws(ServiceError) {
        let clock = ContinuousClock()
        for tokens in plan.chunks(from: kept) {
            for (index, layer) in file.layers.enumerated() {
                let position = start + tokens.lowerBound
                guard lengths[layer.index] < position + tokens.count else { continue }
                guard lengths[layer.index] == position else {
                    throw ServiceError(
                        .conflict,
                        "Layer \(layer.index) of sequence `\(plan.sequenceName)` ends at \(lengths[layer.index]), "
                            + "inside a step of this file: another client is using the sequence. Only one client at "
                            + "a time may use a sequence.")
                }
                let (queries, keys, values) = (
                    try rows(layer.queries, tokens), try rows(layer.keys, tokens),
                    try layer.values.map { (tensor) throws(ServiceError) in try rows(tensor, tokens) }
                )
                let began = clock.now
                let answer = try await cluster.step(
                    layer: layer.index, [sequence.entry(position: position, count: tokens.count)],
                    model: sequence.model, queries: queries, keys: keys, values: values, queryMode: queryMode)
                let duration = clock.now - began
                lengths[layer.index] += tokens.count
                if tokens.lowerBound < plan.prefill {
                    report.prefillSteps.append(duration)
                } else {
                    report.decodeSteps.append(duration)
                }
                try record(answer, tokens, layer, index)
                succeeded()
            }
            // Durable is what every layer of the model has reached.
            if let reached = lengths.min(), reached > report.committedLength {
                let began = clock.now
                try await cluster.commit([
                    SequenceCommit(sequence: sequence.record.id, length: reached, tokens: tokenIDs(upTo: reached))
                ])
                report.commits.append(clock.now - began)
                report.committedLength = reached
                succeeded()
            }
        }
    }

    /// The file's ids of tokens that are not committed yet.
    private func tokenIDs(upTo end: Int) -> TokenIDs? {
        let first = max(report.committedLength, start)
        guard let ids = file.tokenIDs, first < end else { return nil }
        return TokenIDs(start: first, ids: Array(ids[(first - start)..<(end - start)]))
    }

    private mutating func succeeded() {
        guard let outage = outages.succeeded(at: Cluster.now) else { return }
        let resume = SubmissionReport.Resume(
            cause: outage.cause, outage: outage.duration, committedLength: report.committedLength)
        report.resumes.append(resume)
        resumed(resume)
    }

    /// Keeps an answer; one that was kept before has the same bits.
    private mutating func record(
        _ answer: AttentionOutput, _ tokens: Range<Int>, _ layer: SubmitFile.Layer, _ index: Int
    ) throws(ServiceError) {
        guard answered[index] < tokens.upperBound else {
            report.resentTokens += tokens.count
            return
        }
        answered[index] = tokens.upperBound
        try writer?.append(answer.outputs, to: layer.prefix + "o")
        try writer?.append(answer.lse, to: layer.prefix + "lse")
        if let expectation {
            let outputError = try expectation.errorMax(of: answer.outputs, tensor: layer.prefix + "o", tokens: tokens)
            let lseError = try expectation.errorMax(of: answer.lse, tensor: layer.prefix + "lse", tokens: tokens)
            report.layers[index].outputErrorMax = max(report.layers[index].outputErrorMax ?? 0, outputError)
            report.layers[index].lseErrorMax = max(report.layers[index].lseErrorMax ?? 0, lseError)
        }
        progress(answered.reduce(0, +))
    }

    private func rows(_ tensor: SafetensorsTensor, _ tokens: Range<Int>) throws(ServiceError) -> TokenRows {
        let bytes = try tensor.withRows(tokens) { (bytes) throws(ServiceError) in Array(bytes) }
        return TokenRows(
            dataType: tensor.dataType, tokens: tokens.count, heads: tensor.shape[1], dim: tensor.shape[2], bytes: bytes)
    }
}
