// SPDX-License-Identifier: Apache-2.0

package import DCPCore

/// The clients that may change each sequence on this rank, as a value: the client with the latest claim, while it is
/// present.
///
/// The coordinator sends a claim to every rank before its holder gets it, so a request must state exactly the claim
/// known here. Requests of an older holder, whenever they arrive, state another one. A client that has gone (its
/// connection is closed, or it never connected) keeps its claim for a while. Then the claim ends, and the client's
/// uncommitted tokens have no owner: they would take up room forever.
package struct SequenceOwners {
    /// A connection of a client, as the server numbers them.
    package typealias Connection = UInt64

    private struct Owner {
        var claim: Claim
        /// The client's identity, as the coordinator knows it.
        var holder: String
        /// The one that its last request came over, while it is open.
        var connection: Connection?
        var hasEnded = false
    }

    private var owners: [SequenceID: Owner] = [:]
    private var used: [Connection: Set<SequenceID>] = [:]
    /// Since when a holder has been gone without a check for its uncommitted tokens; in nanoseconds of a monotonic
    /// clock.
    private var gone: [SequenceID: UInt64] = [:]

    package init() {}

    /// A client has claimed a sequence. One that comes again, or late, changes nothing.
    package mutating func claimed(_ sequence: SequenceID, _ claim: Claim, by holder: String = "", at now: UInt64) {
        if let owner = owners[sequence], owner.claim >= claim { return }
        forget(sequence)
        owners[sequence] = Owner(claim: claim, holder: holder)
        gone[sequence] = now
    }

    /// A client has forked its sequence. Until the fork is claimed, the client holds it as well, while it is present.
    package mutating func forked(_ child: SequenceID, from parent: SequenceID, at now: UInt64) {
        guard owners[child] == nil else { return }
        owners[child] = Owner(claim: .none, holder: holder(of: parent))
        gone[child] = now
        if let connection = owners[parent]?.connection { use(child, over: connection) }
    }

    /// The sequence is gone; its number is never given again.
    package mutating func forget(_ sequence: SequenceID) {
        leave(sequence)
        owners[sequence] = nil
        gone[sequence] = nil
    }

    /// The identity of a sequence's holder; empty without one, or if clients are not authenticated.
    package func holder(of sequence: SequenceID) -> String { owners[sequence]?.holder ?? "" }

    private mutating func leave(_ sequence: SequenceID) {
        guard let connection = owners[sequence]?.connection else { return }
        used[connection]?.remove(sequence)
        if used[connection]?.isEmpty ?? false { used[connection] = nil }
        owners[sequence]!.connection = nil
    }

    /// Refuses a request that does not state the latest claim on a sequence.
    ///
    /// - Parameters:
    ///   - stored: the claim that the store knows, where this value knows none.
    ///   - epoch: the one that is served.
    /// - Returns: the identity of who holds it, as `holder`.
    /// - Throws: `.claimed` when another client has claimed it since; `.staleEpoch` for a claim of an older epoch;
    ///   `.stepAborted` when the claim has ended.
    @discardableResult
    package func check(
        _ claim: Claim, on sequence: SequenceID, stored: Claim, in epoch: Epoch
    ) throws(ServiceError) -> String {
        let owner = owners[sequence]
        let latest = max(owner?.claim ?? .none, stored)
        if claim == latest, claim.isOf(epoch), let owner, !owner.hasEnded { return owner.holder }
        guard claim >= latest else {
            throw ServiceError(
                .claimed,
                "\(sequence) was claimed by another client (\(latest)) after \(claim); only one client at a time may "
                    + "use a sequence. Resume it to take it over.")
        }
        guard claim.isOf(epoch) else {
            throw ServiceError(
                .staleEpoch,
                "\(claim) on \(sequence) does not belong to \(epoch), the epoch served; resume the sequence.")
        }
        throw ServiceError(
            .stepAborted,
            "\(claim) on \(sequence) has ended: its client was gone for too long, and its uncommitted tokens were "
                + "rolled back. Resume the sequence.")
    }

    /// A request of the owner has come.
    package mutating func use(_ sequence: SequenceID, over connection: Connection) {
        guard let owner = owners[sequence], owner.connection != connection else { return }
        leave(sequence)
        owners[sequence]!.connection = connection
        used[connection, default: []].insert(sequence)
        gone[sequence] = nil
    }

    package mutating func closed(_ connection: Connection, at now: UInt64) {
        for sequence in used.removeValue(forKey: connection) ?? [] {
            owners[sequence]!.connection = nil
            gone[sequence] = now
        }
    }

    /// Ends the claims of clients that have been gone for some time.
    ///
    /// - Parameter isHolding: whether a sequence has uncommitted tokens. A claim that holds nothing does no harm: it stays.
    /// - Returns: the sequences, by number.
    package mutating func end(
        goneFor patience: UInt64, at now: UInt64, where isHolding: (SequenceID) -> Bool
    ) -> [SequenceID] {
        let due = gone.filter { now >= $0.value + patience }.keys
        for sequence in due { gone[sequence] = nil }
        let ended = due.filter(isHolding).sorted()
        for sequence in ended { owners[sequence]!.hasEnded = true }
        return ended
    }

    /// The uncommitted tokens of a sequence whose claim has ended could not be taken back: they are due again when their
    /// holder has been gone for as long once more, unless another has come.
    package mutating func notEnded(_ sequence: SequenceID, at now: UInt64) {
        if owners[sequence]?.hasEnded == true { gone[sequence] = now }
    }

    /// For how long the holder of a sequence has been gone; nil while it is present, or without a holder.
    package func goneFor(_ sequence: SequenceID, at now: UInt64) -> UInt64? { gone[sequence].map { now - $0 } }
}
