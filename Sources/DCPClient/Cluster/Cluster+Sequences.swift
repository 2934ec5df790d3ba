public import DCPCore
public import DCPWire

/// How far a sequence is.
public struct SequenceProgress: Hashable, Sendable {
    /// What every rank has committed.
    public var committedLength: Int
    /// What some rank has committed: more, after a commit that not all ranks have carried out.
    public var longestCommittedLength: Int
    /// Per layer, what every rank has, committed or not.
    public var layerLengths: [Int]
    /// Per rank, the committed tokens it owns.
    public var localTokens: [RankIndex: Int]
    /// Whether some rank has tokens of a layer that another has not: a step failed half-way.
    public var isUneven: Bool

    /// Where the sequence ends: what every layer has on every rank.
    public var length: Int { layerLengths.min() ?? 0 }
}

/// Commits, and what the ranks hold.
extension Cluster {
    /// Makes the first tokens of sequences durable on every rank. All layers must have reached the length. Repeating a
    /// commit is harmless.
    public func commit(_ lengths: [SequenceLength]) async throws(ServiceError) {
        let topology = try await readyTopology()
        let lengths = try await claimed(lengths, in: topology.epoch)
        let replies = try await ask(
            topology.shape.allRanks.map { ($0, .commit(lengths)) }, topology: topology,
            tag: Tag(client: client, number: takeNumber()), timeout: timeouts.request)
        for reply in replies {
            guard case .committed = reply else { throw Self.unexpected(reply, from: "a rank") }
        }
    }

    /// What the ranks hold of a sequence.
    public func status(of sequence: SequenceHandle) async throws(ServiceError) -> SequenceProgress {
        guard let progress = try await statuses(of: [sequence])[sequence.record.id] else {
            throw ServiceError(
                .unknownSequence, "Not every rank has sequence `\(sequence.record.name)`; was it closed meanwhile?")
        }
        return progress
    }

    /// What the ranks hold of sequences; one that is not on every rank is left out.
    public func statuses(of sequences: [SequenceHandle])
        async throws(ServiceError) -> [SequenceID: SequenceProgress]
    {
        let topology = try await readyTopology()
        var found: [SequenceID: SequenceProgress] = [:]
        for start in stride(from: 0, to: sequences.count, by: Self.statusSequencesMax) {
            let some = sequences[start..<min(start + Self.statusSequencesMax, sequences.count)]
            found.merge(try await statuses(of: some, in: topology)) { a, _ in a }
        }
        return found
    }

    /// What a rank answers about at once.
    private static var statusSequencesMax: Int { 1024 }

    private func statuses(of sequences: ArraySlice<SequenceHandle>, in topology: Topology)
        async throws(ServiceError) -> [SequenceID: SequenceProgress]
    {
        let found = try await rankStatuses(of: sequences.map(\.record.id)[...], in: topology)
        return found.compactMapValues { statuses in
            statuses.count == topology.shape.ranks ? SequenceProgress(statuses) : nil
        }
    }

    /// What each rank that has a sequence says of it.
    func rankStatuses(of sequences: ArraySlice<SequenceID>, in topology: Topology)
        async throws(ServiceError) -> [SequenceID: [(RankIndex, SequenceStatus)]]
    {
        let ranks = topology.shape.allRanks
        let replies = try await ask(
            ranks.map { ($0, .sequenceStatusRequest(Array(sequences))) }, topology: topology,
            tag: Tag(client: client, number: takeNumber()), timeout: timeouts.request)
        var found: [SequenceID: [(RankIndex, SequenceStatus)]] = [:]
        for (rank, reply) in zip(ranks, replies) {
            guard case .sequenceStatus(let statuses) = reply else { throw Self.unexpected(reply, from: "\(rank)") }
            for status in statuses { found[status.sequence, default: []].append((rank, status)) }
        }
        return found
    }

    /// Takes a sequence over, from another client or after a failure of one's own, and makes the ranks agree on it: what is
    /// under way ends, and all layers are cut to what every rank has of all of them.
    ///
    /// - Parameter lengthMax: what is kept at most; nil keeps what all have. Never cuts below what is committed.
    /// - Returns: the sequence's progress, from which a client goes on: all layers end at one length.
    /// - Throws: `.claimed` when another client takes it over at the same moment.
    @discardableResult
    public func resume(_ sequence: SequenceHandle, atMost lengthMax: Int? = nil)
        async throws(ServiceError) -> SequenceProgress
    {
        // Before anything is asked of the ranks: what another client had sent is then done or refused.
        try await takeClaim(of: sequence.record.id)
        return try await settle(sequence, atMost: lengthMax)
    }

    /// As `resume`, but does not take the sequence over from a client that has claimed it since this one did.
    /// - Throws: `.claimed` when one has.
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
                try await withClaim(on: sequence.record) {
                    .truncate(name: sequence.record.name, length: length, claim: $0)
                }
            }
        }
    }

    private func rewind(_ sequence: SequenceHandle, to length: Int) async throws(ServiceError) {
        let topology = try await readyTopology()
        let lengths = try await claimed(
            [SequenceLength(sequence: sequence.record.id, length: length)], in: topology.epoch)
        let replies = try await ask(
            topology.shape.allRanks.map { ($0, .rewind(lengths[0])) }, topology: topology,
            tag: Tag(client: client, number: takeNumber()), timeout: timeouts.request)
        for reply in replies {
            guard case .rewound = reply else { throw Self.unexpected(reply, from: "a rank") }
        }
    }

    /// Every rank's counters, in rank order.
    public func rankStatuses() async throws(ServiceError) -> [RankStatus] {
        let topology = try await topology()
        let present = topology.members.filter { !$0.endpoint.isEmpty }.map(\.rank)
        let replies = try await ask(
            present.map { ($0, .rankStatusRequest) }, topology: topology,
            tag: Tag(client: client, number: takeNumber()), timeout: timeouts.request)
        return try replies.map { (reply) throws(ServiceError) in
            guard case .rankStatus(let status) = reply else { throw Self.unexpected(reply, from: "a rank") }
            return status
        }
    }
}
