// SPDX-License-Identifier: Apache-2.0

public import DCPCore
public import DCPWire

/// A stored sequence that begins with the first `length` of some token ids.
public struct PrefixMatch: Hashable, Sendable {
    public var sequence: SequenceID
    public var length: Int
}

extension Cluster {
    /// Maximum number of sequences to try that are incomplete on some rank.
    private static let matchesMax = 16

    /// The stored sequence of a model and scope with the longest common prefix with some token ids, and the length of
    /// the prefix: never more than every rank has committed. nil if no sequence begins with the first id.
    ///
    /// One rank answers from its index and verifies the stored ids; the others report their lengths. The sequence
    /// counts as used.
    /// - Parameter revision: the search fails if the model has another.
    /// - Throws: `.modelMismatch` for another revision, `.unknownModel`, `.notReady`.
    public func match(
        model: ModelRecord, revision: String? = nil, scope: String = "", ids: [UInt32]
    ) async throws(ServiceError) -> PrefixMatch? {
        let topology = try await readyTopology()
        let ranks = topology.shape.allRanks
        var request = MatchTokens(
            MatchQuestion(model: model.id, scope: scope, ids: ids), revision: revision ?? "")
        for _ in 0..<Self.matchesMax {
            let rank = ranks[Int(takeNumber() % UInt64(ranks.count))]
            let reply = try await ask(request, of: rank, in: topology)
            guard let found = reply.found else { return nil }
            let statuses = try await rankStatuses(of: [found.sequence], in: topology)[found.sequence] ?? []
            let lengths = statuses.map(\.1).filter(\.isWhole).map(\.committedLength)
            if lengths.count == ranks.count, let committed = lengths.min(), committed > 0 {
                return PrefixMatch(sequence: found.sequence, length: min(found.length, committed))
            }
            request.question.excluding.append(found.sequence)
        }
        throw ServiceError(
            .notReady,
            "\(Self.matchesMax) sequences that begin with these ids are damaged on a rank or are being closed; try "
                + "again.")
    }

    /// Token ids of a sequence, as they were committed.
    /// - Throws: `.positionMismatch` beyond those it has.
    public func tokenIDs(of sequence: SequenceID, _ positions: Range<Int>) async throws(ServiceError) -> [UInt32] {
        var ids: [UInt32] = []
        while ids.count < positions.count {
            let start = positions.lowerBound + ids.count
            let count = min(ReadTokens.countMax, positions.upperBound - start)
            let reply = try await readTokens(
                ReadTokens(sequence, start: start, count: count, wantsAnnotation: false))
            guard reply.ids.count == count else {
                throw Self.unexpected("\(reply.ids.count) ids instead of \(count)", from: "a rank")
            }
            ids += reply.ids
        }
        return ids
    }

    /// The annotation of a sequence, or nil.
    public func annotation(of sequence: SequenceID) async throws(ServiceError) -> [UInt8]? {
        try await readTokens(ReadTokens(sequence, start: 0, count: 0, wantsAnnotation: true)).annotation
    }

    /// Reads data that all ranks have from one rank after the other, until one has it intact.
    private func readTokens(_ request: ReadTokens) async throws(ServiceError) -> ReadTokens.Reply {
        let topology = try await readyTopology()
        var failure: ServiceError?
        for rank in topology.shape.allRanks {
            do throws(ServiceError) {
                return try await ask(request, of: rank, in: topology)
            } catch {
                guard error.code == .storeDamaged else { throw error }
                failure = error
            }
        }
        throw failure!
    }
}

extension SequenceStatus {
    /// Whether the rank has all of it, and its ids.
    fileprivate var isWhole: Bool { intactLength == committedLength && tokenIDs == committedLength }
}
