// SPDX-License-Identifier: Apache-2.0

import DCPConsole
import DCPCore
import DCPTransfer
import DCPWire

/// The output of `dcpctl submit`.
struct SubmissionView: Encodable {
    struct Layer: Encodable {
        var layer: Int
        var outputErrorMax: Float?
        var lseErrorMax: Float?
    }

    /// Of the sequence alone; what a rank has in all, `dcpctl ranks` tells.
    struct Rank: Encodable {
        var rank: Int
        var tokens: Int
        var kernels: String
    }

    struct Latency: Encodable {
        var what: String
        var count: Int
        var p50Microseconds: Double
        var p99Microseconds: Double
        var maxMicroseconds: Double
    }

    var model: String
    var sequence: String
    var tokens: Int
    var prefillTokens: Int
    /// Of the file's tokens, those that were stored before.
    var keptTokens: Int
    var committedLength: Int
    var layers: [Layer]
    var ranks: [Rank]
    var latencies: [Latency]
    /// Outages that the command got over, the longest of them, and what had to be sent again for them.
    var resumes: Int
    var outageMaxMicroseconds: Double
    var resentTokens: Int

    init(_ report: SubmissionReport) {
        model = report.model
        sequence = report.sequence
        tokens = report.tokens
        prefillTokens = report.prefillTokens
        keptTokens = report.keptTokens
        committedLength = report.committedLength
        layers = report.layers.map {
            Layer(layer: $0.layer, outputErrorMax: $0.outputErrorMax, lseErrorMax: $0.lseErrorMax)
        }
        ranks = report.ranks.map {
            Rank(
                rank: Int($0.status.rank.value), tokens: $0.tokens, kernels: $0.status.kernels)
        }
        resumes = report.resumes.count
        outageMaxMicroseconds = (report.resumes.map(\.outage).max() ?? .zero) / .microseconds(1)
        resentTokens = report.resentTokens
        latencies = [
            ("prefill step", report.prefillSteps), ("decode step", report.decodeSteps), ("commit", report.commits),
        ].compactMap { what, durations in
            guard let p50 = SubmissionReport.quantile(0.5, of: durations),
                let p99 = SubmissionReport.quantile(0.99, of: durations), let worst = durations.max()
            else { return nil }
            return Latency(
                what: what, count: durations.count, p50Microseconds: p50 / .microseconds(1),
                p99Microseconds: p99 / .microseconds(1), maxMicroseconds: worst / .microseconds(1))
        }
    }

    private var sent: String {
        let sent = tokens - keptTokens
        guard sent > 0 else { return "all \(tokens) tokens were there already" }
        return "\(sent) tokens sent (\(max(prefillTokens - keptTokens, 0)) of them in chunks)"
    }

    var text: String {
        var parts = [
            "Sequence `\(sequence)` of model `\(model)`: \(sent), committed up to \(committedLength)."
        ]
        if resumes > 0 {
            let longest = DurationFormat.latency(.microseconds(outageMaxMicroseconds))
            parts.append(
                "Resumed \(resumes) times, the longest outage took \(longest); \(resentTokens) tokens of layers were sent "
                    + "again.")
        }
        if layers.contains(where: { $0.outputErrorMax != nil }) {
            var table = TextTable("LAYER", "MAX ERROR O", "MAX ERROR LSE")
            for layer in layers {
                table.append([
                    "\(layer.layer)", layer.outputErrorMax.map { "\($0)" } ?? "-",
                    layer.lseErrorMax.map { "\($0)" } ?? "-",
                ])
            }
            parts.append(table.rendered())
        }
        if !ranks.isEmpty {
            var table = TextTable("RANK", "TOKENS")
            for rank in ranks { table.append(["\(rank.rank)", "\(rank.tokens)"]) }
            parts.append(table.rendered())
        }
        var times = TextTable("LATENCY", "COUNT", "P50", "P99", "MAX")
        for latency in latencies {
            func format(_ microseconds: Double) -> String { DurationFormat.latency(.microseconds(microseconds)) }
            times.append([
                latency.what, "\(latency.count)", format(latency.p50Microseconds), format(latency.p99Microseconds),
                format(latency.maxMicroseconds),
            ])
        }
        if !latencies.isEmpty { parts.append(times.rendered()) }
        if let kernels = ranks.first?.kernels { parts.append("Kernels: \(kernels)") }
        return parts.joined(separator: "\n\n")
    }
}
