public import DCPCore
public import DCPWire

/// How far a sequence is.
public struct SequenceProgress: Hashable, Sendable {
    /// What every rank has committed.
    public var committedLength: Int
    /// Per layer, what every rank has, committed or not.
    public var layerLengths: [Int]
    /// Per rank, the committed tokens it owns.
    public var localTokens: [RankIndex: Int]
    /// Whether some rank has tokens of a layer that another has not: a step failed half-way.
    public var isUneven: Bool
}

/// Commits, and what the ranks hold.
extension Cluster {
    /// Makes the first tokens of sequences durable on every rank. All layers must have reached the length. Repeating a
    /// commit is harmless.
    public func commit(_ lengths: [SequenceLength]) async throws(ServiceError) {
        let topology = try await readyTopology()
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
        let ranks = topology.shape.allRanks
        let replies = try await ask(
            ranks.map { ($0, .sequenceStatusRequest(sequences.map(\.record.id))) }, topology: topology,
            tag: Tag(client: client, number: takeNumber()), timeout: timeouts.request)
        var found: [SequenceID: [(RankIndex, SequenceStatus)]] = [:]
        for (rank, reply) in zip(ranks, replies) {
            guard case .sequenceStatus(let statuses) = reply else { throw Self.unexpected(reply, from: "\(rank)") }
            for status in statuses { found[status.sequence, default: []].append((rank, status)) }
        }
        return found.compactMapValues { statuses in
            statuses.count == ranks.count ? SequenceProgress(statuses) : nil
        }
    }

    /// Makes the ranks agree after a step that failed half-way: its remains are ended on every rank, and each layer is
    /// cut to what every rank has of it. Ends steps of other clients on the sequence, too.
    /// - Parameter lengthsMax: per layer, what is kept at most; nil keeps what every rank has. Never cuts below the
    ///   committed length.
    /// - Returns: the sequence's progress, from which a client goes on.
    /// - Throws: `.claimed`, retryable, when another client has resumed the sequence meanwhile; `.conflict` when the
    ///   lengths do not settle, because another client appends.
    @discardableResult
    public func resume(_ sequence: SequenceHandle, atMost lengthsMax: [Int]? = nil)
        async throws(ServiceError) -> SequenceProgress
    {
        // Before anything is asked of the ranks: what another client had sent to the directory is then done or refused.
        _ = try await claim(of: sequence.record, in: readyTopology().epoch)
        var resumption = Resumption(atMost: lengthsMax)
        var hasTakenOver = false
        while true {
            switch resumption.next(try await status(of: sequence)) {
            case .settled(let progress): return progress
            case .rewind(let lengths):
                do throws(ServiceError) {
                    try await rewind(sequence, to: lengths)
                } catch {
                    // Another client has resumed it since this one did; now it is this one's again. Two that do so at the
                    // same time are told.
                    guard error.code == .claimed, !hasTakenOver else { throw error }
                    hasTakenOver = true
                    resumption = Resumption(atMost: lengthsMax)
                }
            case .unsettled:
                throw ServiceError(
                    .conflict,
                    "The ranks do not come to one length of sequence `\(sequence.record.name)`: another client appends to "
                        + "it. Let one client at a time use a sequence.")
            }
        }
    }

    private func rewind(_ sequence: SequenceHandle, to layerLengths: [Int]) async throws(ServiceError) {
        let topology = try await readyTopology()
        let claim = try await claim(of: sequence.record, in: topology.epoch)
        let request = Message.rewind(sequence.record.id, claim: claim, layerLengths: layerLengths)
        let replies: [Message]
        do throws(ServiceError) {
            replies = try await ask(
                topology.shape.allRanks.map { ($0, request) }, topology: topology,
                tag: Tag(client: client, number: takeNumber()), timeout: timeouts.request)
        } catch {
            if error.code == .claimed { claims[sequence.record.id] = nil }
            throw error
        }
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
