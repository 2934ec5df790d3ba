// SPDX-License-Identifier: Apache-2.0

public import DCPCore
public import DCPWire

/// The status of a sequence.
public struct SequenceProgress: Hashable, Sendable {
    /// The length that every rank has committed.
    public var committedLength: Int
    /// The length that some rank has committed: greater after a commit that not all ranks have applied.
    public var longestCommittedLength: Int
    /// Per layer, the length that every rank has, committed or not.
    public var layerLengths: [Int]
    /// Per rank, the committed tokens it owns.
    public var localTokens: [RankIndex: Int]
    /// How many committed tokens have ids, on every rank.
    public var tokenIDs: Int
    /// Whether a rank has tokens of a layer that another lacks, after a step that failed half-way.
    public var isUneven: Bool

    /// The end of the sequence: the length that every layer has on every rank.
    public var length: Int { layerLengths.min() ?? 0 }
}

/// Commits and the ranks' status.
extension Cluster {
    /// Makes the first tokens of sequences durable on every rank. All layers must have reached the length. Repeating a
    /// commit is harmless.
    public func commit(_ lengths: [SequenceLength]) async throws(ServiceError) {
        try await commit(lengths.map { SequenceCommit(sequence: $0.sequence, length: $0.length) })
    }

    /// As above, with token ids and annotations.
    /// - Throws: `.conflict` for ids that contradict stored ones, `.positionMismatch` where they would leave a gap,
    ///   `.invalidRequest` for too many, too few, or too long an annotation. Nothing has changed then.
    public func commit(_ parts: [SequenceCommit]) async throws(ServiceError) {
        let topology = try await readyTopology()
        let parts = try await claimed(parts, in: topology.epoch)
        _ = try await askRanks(Commit(parts), topology: topology)
    }

    /// The ranks' status of a sequence.
    public func status(of sequence: SequenceHandle) async throws(ServiceError) -> SequenceProgress {
        guard let progress = try await statuses(of: [sequence])[sequence.record.id] else {
            throw ServiceError(
                .unknownSequence,
                "Not every rank has sequence `\(sequence.record.name)`; it may have been closed meanwhile.")
        }
        return progress
    }

    /// The ranks' status of sequences; a sequence that is not on every rank is omitted.
    public func statuses(of sequences: [SequenceHandle])
        async throws(ServiceError) -> [SequenceID: SequenceProgress]
    {
        let topology = try await readyTopology()
        var found: [SequenceID: SequenceProgress] = [:]
        for start in stride(from: 0, to: sequences.count, by: GetSequenceStatus.itemsMax) {
            let some = sequences[start..<min(start + GetSequenceStatus.itemsMax, sequences.count)]
            found.merge(try await statuses(of: some, in: topology)) { a, _ in a }
        }
        return found
    }

    private func statuses(of sequences: ArraySlice<SequenceHandle>, in topology: Topology)
        async throws(ServiceError) -> [SequenceID: SequenceProgress]
    {
        let found = try await rankStatuses(of: sequences.map(\.record.id), in: topology)
        return found.compactMapValues { statuses in
            statuses.count == topology.shape.ranks ? SequenceProgress(statuses) : nil
        }
    }

    /// The status of a sequence on each rank that has it.
    /// - Parameter sequences: at most as many as a rank is asked about at once.
    package func rankStatuses(of sequences: [SequenceID], in topology: Topology)
        async throws(ServiceError) -> [SequenceID: [(RankIndex, SequenceStatus)]]
    {
        let replies = try await askRanks(Many(sequences.map { GetSequenceStatus($0) }), topology: topology)
        var found: [SequenceID: [(RankIndex, SequenceStatus)]] = [:]
        for (rank, reply) in zip(topology.shape.allRanks, replies) {
            for answer in try Self.checked(reply, count: sequences.count, from: "\(rank)") {
                // Not there, or damaged there.
                guard case .success(let status) = answer else { continue }
                found[status.sequence, default: []].append((rank, status))
            }
        }
        return found
    }

    /// Cuts the uncommitted tokens of sequences, each to its length.
    /// - Returns: the resulting lengths, in the order of `lengths`: the committed length if that is greater.
    func cutUncommitted(
        _ lengths: [(sequence: SequenceHandle, length: Int)]
    ) async throws(ServiceError) -> [Result<Int, ServiceError>] {
        let topology = try await readyTopology()
        var results: [Result<Int, ServiceError>?] = Array(repeating: nil, count: lengths.count)
        var items: [(index: Int, item: CutUncommitted)] = []
        for (index, (sequence, length)) in lengths.enumerated() {
            do throws(ServiceError) {
                let id = sequence.record.id
                // One of before the coordinator's restart is kept, unless another client has come in between.
                let isGood = claims[id].map { $0.claim.isOf(topology.epoch) && !$0.isSpent } ?? false
                let claim = isGood ? claims[id]!.claim : try await keepClaim(on: sequence.record)
                items.append((index, CutUncommitted(SequenceLength(sequence: id, length: length, claim: claim))))
            } catch {
                results[index] = .failure(error)
            }
        }
        let itemsMax = CutUncommitted.itemsMax
        for start in stride(from: 0, to: items.count, by: itemsMax) {
            let some = items[start..<min(start + itemsMax, items.count)]
            let replies = try await askRanks(Many(some.map(\.item)), topology: topology)
            for (rank, reply) in zip(topology.shape.allRanks, replies) {
                let answers = try Self.checked(reply, count: some.count, from: "\(rank)")
                for ((index, item), answer) in zip(some, answers) {
                    let answer = answer.map(\.length).mapError { explained($0, of: item.length) }
                    if case .failure(let error) = answer { forgetTopology(after: error) }
                    results[index] = (results[index] ?? .success(0)).flatMap { end in answer.map { max(end, $0) } }
                }
            }
        }
        return results.map { $0! }
    }

    /// Takes a sequence over, from another client or after a failure, and makes the ranks agree on it: running requests
    /// end, and all layers are cut to the length that every rank has in all of them.
    ///
    /// - Parameter lengthMax: the maximum length to keep; nil keeps the common length. Never cuts below the committed
    ///   length.
    /// - Returns: the sequence's progress, from which a client continues: all layers end at one length.
    /// - Throws: `.claimed` if another client takes it over at the same time.
    @discardableResult
    public func resume(_ sequence: SequenceHandle, atMost lengthMax: Int? = nil)
        async throws(ServiceError) -> SequenceProgress
    {
        // Before any request to the ranks: every earlier request of another client has then succeeded or failed.
        try await takeClaim(of: sequence.record.id)
        return try await settle(sequence, atMost: lengthMax)
    }

    /// Like `resume`, but does not take the sequence over from a client that has claimed it since.
    /// - Throws: `.claimed` if one has.
    func resumeOwn(_ sequence: SequenceHandle, atMost lengthMax: Int) async throws(ServiceError) -> SequenceProgress {
        try await keepClaim(on: sequence.record)
        return try await settle(sequence, atMost: lengthMax)
    }

    private func settle(_ sequence: SequenceHandle, atMost lengthMax: Int?) async throws(ServiceError)
        -> SequenceProgress
    {
        while true {
            let progress = try await status(of: sequence)
            switch Resumption(of: progress, atMost: lengthMax) {
            case .settled: return progress
            case .rewind(let length): try await rewind(sequence, to: length)
            case .truncate(let length):
                _ = try await withClaims(on: [sequence.record]) { _, claim in
                    TruncateSequence(name: sequence.record.name, length: length, claim: claim)
                }[0].get()
            }
        }
    }

    private func rewind(_ sequence: SequenceHandle, to length: Int) async throws(ServiceError) {
        _ = try await cutUncommitted([(sequence, length)])[0].get()
    }

    /// Every rank's counters, in rank order.
    public func rankStatuses() async throws(ServiceError) -> [RankStatus] {
        let topology = try await topology()
        let present = topology.members.filter { $0.endpoint != nil }.map(\.rank)
        return try await ask(
            present.map { ($0, GetRankStatus()) }, topology: topology,
            tag: Tag(client: client, number: takeNumber()), timeout: timeouts.request)
    }
}
