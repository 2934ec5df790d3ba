// SPDX-License-Identifier: Apache-2.0

import DCPClient
import DCPConsole
import DCPCore
import DCPWire

/// One refresh of `dcpctl top`: what changed between two samples.
struct TopView: Encodable {
    var phase: String
    var reason: String
    var epoch: UInt64
    /// Between the samples; nil in the first.
    var intervalSeconds: Double?
    /// Over the ranks of a head group, each of which is sent every token.
    var tokensPerSecond: Double?
    var ranks: [Rank]
    var sequences: [Sequence]

    struct Rank: Encodable {
        var rank: Int
        var state: String
        var tokensPerSecond: Double?
        var stepsPerSecond: Double?
        /// Means of the steps, and of the commits, that ended in the interval; nil when none did.
        var stepMicroseconds: Double?
        var computeMicroseconds: Double?
        var exchangeMicroseconds: Double?
        var commitMicroseconds: Double?
        var stepsInFlight: UInt64?
        var peersConnected: UInt64?
        var storeBytes: UInt64?
        var storeLimitBytes: UInt64?
        var storeCondition: String?
    }

    struct Sequence: Encodable {
        var name: String
        var model: String
        var length: Int
        var committedLength: Int
        var tokensPerSecond: Double?
    }

    init(_ now: TopSample, since before: TopSample?, sequences count: Int) {
        phase = StatusView.name(of: now.topology.phase)
        reason = now.failure?.message ?? now.topology.reason
        epoch = now.topology.epoch.value
        let seconds = before.map { (now.at - $0.at) / .seconds(1) }.flatMap { $0 > 0 ? $0 : nil }
        intervalSeconds = seconds
        ranks = now.topology.members.map { member in
            Rank(
                Int(member.rank.value), isPresent: member.endpoint != nil, now.statuses[member.rank],
                since: before?.statuses[member.rank], seconds: seconds)
        }
        tokensPerSecond = ranks.compactMap(\.tokensPerSecond).max()
        let earlier = Dictionary(
            (before?.sequences ?? []).map { ($0.handle.record.id, $0.progress.length) }, uniquingKeysWith: { a, _ in a }
        )
        sequences = now.sequences.map { handle, progress in
            // One that was not there before has no rate yet; one that was cut has none either.
            let rate = seconds.flatMap { seconds in
                earlier[handle.record.id].map { max(0, Double(progress.length - $0) / seconds) }
            }
            return Sequence(
                name: handle.record.name, model: handle.model.name, length: progress.length,
                committedLength: progress.committedLength, tokensPerSecond: rate)
        }.sorted {
            ($0.tokensPerSecond ?? 0, $0.length, $1.name) > ($1.tokensPerSecond ?? 0, $1.length, $0.name)
        }
        sequences = Array(sequences.prefix(count))
    }

    var text: String {
        let state = phase == "ready" && reason.isEmpty ? "ready" : "\(phase), \(reason)"
        let rate = tokensPerSecond.map { ", \(Self.rate($0)) tokens/s" } ?? ""
        var text = "Cluster \(state), epoch \(epoch), \(ranks.count) ranks\(rate)\n\n"
        var table = TextTable(
            "RANK", "STATE", "TOKENS/S", "STEPS/S", "STEP", "COMPUTE", "EXCHANGE", "COMMIT", "IN FLIGHT", "PEERS",
            "STORE",
            "LIMIT", "DISK")
        for rank in ranks {
            table.append([
                "\(rank.rank)", rank.state, Self.cell(rank.tokensPerSecond, Self.rate),
                Self.cell(rank.stepsPerSecond, Self.rate), Self.cell(rank.stepMicroseconds, Self.latency),
                Self.cell(rank.computeMicroseconds, Self.latency), Self.cell(rank.exchangeMicroseconds, Self.latency),
                Self.cell(rank.commitMicroseconds, Self.latency), Self.cell(rank.stepsInFlight) { "\($0)" },
                Self.cell(rank.peersConnected) { "\($0)" },
                Self.cell(rank.storeBytes) { ByteFormat.format(Int(clamping: $0)) },
                Self.cell(rank.storeLimitBytes) { ByteFormat.format(Int(clamping: $0)) }, rank.storeCondition ?? "-",
            ])
        }
        text += table.rendered()
        guard !sequences.isEmpty else { return text }
        var busiest = TextTable(
            [TextTable.Column("SEQUENCE", alignment: .left), TextTable.Column("MODEL", alignment: .left)]
                + ["TOKENS/S", "LENGTH", "COMMITTED"].map { TextTable.Column($0) })
        for sequence in sequences {
            busiest.append([
                sequence.name, sequence.model, Self.cell(sequence.tokensPerSecond, Self.rate), "\(sequence.length)",
                "\(sequence.committedLength)",
            ])
        }
        return text + "\n\n" + busiest.rendered()
    }

    private static func cell<Value>(_ value: Value?, _ text: (Value) -> String) -> String { value.map(text) ?? "-" }

    private static func rate(_ value: Double) -> String {
        value < 10 ? "\((value * 10).rounded() / 10)" : "\(Int(value.rounded()))"
    }

    private static func latency(_ microseconds: Double) -> String {
        DurationFormat.latency(.nanoseconds(Int64(microseconds * 1000)))
    }
}

extension TopView.Rank {
    init(_ rank: Int, isPresent: Bool, _ now: RankStatus?, since before: RankStatus?, seconds: Double?) {
        self.rank = rank
        state = isPresent ? (now == nil ? "silent" : "present") : "missing"
        guard let now else { return }
        stepsInFlight = now.stepsInFlight
        peersConnected = now.peersConnected
        storeBytes = now.storeByteCount
        storeLimitBytes = now.mapByteCountMax
        storeCondition = "\(now.room.condition)"
        // Another process has begun its counters anew.
        guard let before, let seconds, before.processID == now.processID else { return }
        let steps = now.stepsCompleted &- before.stepsCompleted
        let commits = now.commits &- before.commits
        tokensPerSecond = Double(now.stepTokens &- before.stepTokens) / seconds
        stepsPerSecond = Double(steps) / seconds
        if steps > 0 {
            let times = now.stepTimes - before.stepTimes
            func mean(_ nanoseconds: UInt64) -> Double { Double(nanoseconds) / Double(steps) / 1000 }
            stepMicroseconds = mean(times.total)
            computeMicroseconds = mean(times.newTokens &+ times.context)
            exchangeMicroseconds = mean(times.queryWait &+ times.partialWait)
        }
        if commits > 0 {
            commitMicroseconds = Double(now.commitNanoseconds &- before.commitNanoseconds) / Double(commits) / 1000
        }
    }
}

extension SequenceProgress {
    /// The length in every layer of every rank.
    fileprivate var length: Int { layerLengths.min() ?? committedLength }
}
