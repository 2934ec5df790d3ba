internal import DCPCore
internal import DCPWire

/// Who may change a sequence: this client, once it has claimed it, until another does.
extension Cluster {
    /// This client's claim on a sequence; asks the coordinator for one when it has none.
    /// - Parameter epoch: the claim must have been given in it; nil takes whichever it has.
    func claim(of sequence: SequenceRecord, in epoch: Epoch? = nil) async throws(ServiceError) -> Claim {
        if let known = claims[sequence.id], epoch.map(known.isOf) ?? true { return known }
        let reply = try await directory(.claim(name: sequence.name))
        guard reply.sequences.first?.id == sequence.id else {
            throw ServiceError(
                .unknownSequence,
                "Sequence `\(sequence.name)` was closed and another was opened under its name; open it again.")
        }
        claims[sequence.id] = reply.claim
        return reply.claim
    }

    /// Asks the directory to change a sequence. Without an answer the request may still come there, so the claim is given
    /// up: the next one fences it off, or waits for it.
    @discardableResult
    func withClaim(
        on sequence: SequenceRecord, _ request: (Claim) -> DirectoryRequest
    ) async throws(ServiceError) -> DirectoryReply {
        let claim = try await claim(of: sequence)
        claims[sequence.id] = nil
        let reply = try await directory(request(claim))
        if claims[sequence.id] == nil { claims[sequence.id] = claim }
        return reply
    }
}
