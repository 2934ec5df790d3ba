// SPDX-License-Identifier: Apache-2.0

internal import DCPCache
internal import DCPCore
internal import DCPTransport
internal import DCPWire
internal import NIOCore

/// Claims, and tokens whose client has gone.
extension RankServer {
    /// Refuses requests without the latest claims on their sequences; otherwise records that the client is present.
    func checkClaims(
        _ claims: some Sequence<(sequence: SequenceID, claim: Claim)>, from link: Link
    ) throws(ServiceError) {
        let connection = clients.ordinal(of: link)
        for (sequence, claim) in claims {
            guard let stored = cache.claim(of: sequence) else { throw unknown(sequence) }
            let holder = try owners.check(claim, on: sequence, stored: stored, in: coordinator.epoch)
            try link.caller.checkChange(of: "\(sequence)", ownedBy: holder)
            if let connection { owners.use(sequence, over: connection) }
        }
    }

    func checkClaim(_ claim: Claim, on sequence: SequenceID, from link: Link) throws(ServiceError) {
        try checkClaims(CollectionOfOne((sequence: sequence, claim: claim)), from: link)
    }

    /// A client takes a sequence over. Older claims are refused from now on; what they have begun ends first.
    func take(
        over sequence: SequenceID, _ claim: Claim, by holder: String,
        done: @escaping (Result<Void, ServiceError>) -> Void
    ) {
        owners.claimed(sequence, claim, by: holder, at: now)
        // Retryable: it may be the same client that claims anew, and another finds out when it resumes.
        abortSteps(
            on: sequence,
            ServiceError(.stepAborted, "\(sequence) was claimed while the step was in flight; resume the sequence."))
        when(.idle(sequence)) { [self] in
            // Nothing of a sequence whose record is damaged is served to anybody.
            guard cache.claim(of: sequence) != nil else { return done(.success(())) }
            do throws(ServiceError) {
                try cache.take(over: sequence, claim)
                cursors.forget(sequence)
                done(.success(()))
            } catch {
                done(.failure(error))
            }
        }
    }

    /// Takes back what clients that are gone have appended and not committed.
    func endAbandonedClaims() {
        let ended = owners.end(goneFor: UInt64(configuration.claimTimeout.nanoseconds), at: now) { sequence in
            guard let state = cache.state(of: sequence) else { return false }
            return state.layerLengths.contains { $0 > state.committedLength }
        }
        for sequence in ended { takeBackUncommitted(of: sequence) }
    }

    private func takeBackUncommitted(of sequence: SequenceID) {
        abortSteps(on: sequence, ServiceError(.stepAborted, "The client of \(sequence) has gone."))
        when(.idle(sequence)) { [self] in
            guard let state = cache.state(of: sequence) else { return }
            let tokens = (state.layerLengths.max() ?? Position(0)) - state.committedLength
            do throws(ServiceError) {
                try cache.rewind(sequence: sequence, length: state.committedLength)
                cursors.forget(sequence)
                counters.claimsEnded += 1
                observe(.claimEnded(sequence, tokens: tokens, after: configuration.claimTimeout))
            } catch {
                observe(.claimNotEnded(sequence, error))
                owners.notEnded(sequence, at: now)
            }
        }
    }

    /// As the cache's refusal of an append for want of room, with who has it.
    func withHolders(_ error: ServiceError) -> ServiceError {
        let holdings = cache.uncommittedHoldings
        guard [.overloaded, .storeFull].contains(error.code), !holdings.isEmpty else { return error }
        let named = holdings.prefix(Self.holdersNamedMax).map { holding in
            let isGone = owners.goneFor(holding.sequence, at: now).map { gone in
                let left = max(0, configuration.claimTimeout.nanoseconds - Int64(gone)) / 1_000_000_000
                return ", whose client has gone, rolled back in \(left) s"
            }
            let spilled = holding.spilledByteCount > 0 ? ", \(holding.spilledByteCount) of them in the store" : ""
            return "\(holding.sequence) \(holding.byteCount) bytes\(spilled)\(isGone ?? "")"
        }
        let rest = holdings.count - named.count
        var error = error
        error.message += " Held by \(named.joined(separator: "; "))\(rest > 0 ? "; and \(rest) more" : "")."
        return error
    }

    static let holdersNamedMax = 8

    var now: UInt64 { eventLoop.now.uptimeNanoseconds }
}
