// SPDX-License-Identifier: Apache-2.0

public import DCPCore
internal import DCPWire

/// The findings of a verification in one rank's store.
public struct RankVerification: Sendable {
    public let rank: RankIndex
    public var progress = VerificationProgress()
    public var findings: [StoreFinding] = []
    /// Findings that the rank counted but could not keep: repair the listed ones, then verify again.
    public var unlistedCount = 0

    public init(rank: RankIndex) { self.rank = rank }

    /// Whether something is damaged, listed or not.
    public var hasDamage: Bool { unlistedCount > 0 || findings.contains { $0.isDamage } }
}

extension Cluster {
    /// The interval between two status requests to the ranks.
    private static var verificationPollInterval: Duration { .milliseconds(100) }

    /// Makes every rank verify its store, or one sequence in it, in the background, and follows them to the end.
    ///
    /// A rank runs one verification at a time: a running one that covers the request is followed; for one of another
    /// sequence, this waits.
    /// - Parameter progress: called with the sum over all ranks.
    /// - Throws: `.notReady` while a rank is missing; `.internal` if a rank's verification could not continue.
    public func verify(
        _ sequence: SequenceHandle? = nil, progress: @Sendable (VerificationProgress) -> Void = { _ in }
    ) async throws(ServiceError) -> [RankVerification] {
        let topology = try await topology()
        if let missing = topology.members.first(where: { $0.endpoint == nil })?.rank {
            throw ServiceError(
                .notReady,
                "\(missing) is missing (\(topology.reason)); verify again when it is back, or its store alone with `dcpctl "
                    + "verify --store`.", rank: missing)
        }
        var runs = topology.shape.allRanks.map { FollowedRun(rank: $0, sequence: sequence?.record.id) }
        while true {
            let open = runs.indices.filter { !runs[$0].isDone }
            let replies = try await ask(
                open.map { (runs[$0].rank, runs[$0].request) }, topology: topology,
                tag: Tag(client: client, number: takeNumber()), timeout: timeouts.request)
            for (index, status) in zip(open, replies) { try runs[index].take(status) }
            progress(runs.reduce(into: VerificationProgress()) { $0.add($1.result.progress) })
            if runs.allSatisfy(\.isDone) { return runs.map(\.result) }
            if runs.contains(where: \.hasMorePages) { continue }
            do {
                try await Task.sleep(for: Self.verificationPollInterval)
            } catch {
                throw ServiceError(
                    .deadlineExceeded,
                    "The verification continues on the ranks, but this client no longer waits for it.")
            }
        }
    }
}

/// A client's view of one rank's verification: a value, status in, request out.
private struct FollowedRun {
    let rank: RankIndex
    let sequence: SequenceID?
    var run: UInt64?
    var result: RankVerification
    var isDone = false
    /// Findings of the run that have been told of, of other sequences too.
    var taken = 0
    var hasMorePages = false

    init(rank: RankIndex, sequence: SequenceID?) {
        self.rank = rank
        self.sequence = sequence
        result = RankVerification(rank: rank)
    }

    var request: VerificationRequest {
        VerificationRequest(start: run == nil, sequence: sequence, firstFinding: taken)
    }

    mutating func take(_ status: VerificationStatus) throws(ServiceError) {
        if let run, status.run != run {
            // Another client's verification followed ours before we had all findings: ours may be out of date.
            self = FollowedRun(rank: rank, sequence: sequence)
            return
        }
        if run == nil {
            guard status.sequence == nil || status.sequence == sequence else { return }
            run = status.run
        }
        guard status.state != .failed, status.state != .idle else {
            throw ServiceError(
                .internal, "The verification of \(rank) could not continue: \(status.failure) Try again.", rank: rank)
        }
        taken += status.findings.count
        result.findings += status.findings.filter { sequence == nil || $0.sequence == sequence }
        result.unlistedCount = status.findingCount - status.keptCount
        result.progress = status.progress
        hasMorePages = taken < status.keptCount
        isDone = status.state == .done && !hasMorePages
    }
}

extension VerificationProgress {
    fileprivate mutating func add(_ other: VerificationProgress) {
        byteCount += other.byteCount
        byteCountTotal += other.byteCountTotal
        sequences += other.sequences
        blocks += other.blocks
        rows += other.rows
    }
}
