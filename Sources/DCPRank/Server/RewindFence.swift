package import DCPCore
package import DCPWire

/// Which steps on one sequence were sent before its last rewind, and so come too late, as a value.
///
/// A client that drops its connections may have steps on the way, which reach a rank after the rewind of the client that
/// follows it. Those of clients that had used the sequence before the rewind are refused until they rewind themselves; so
/// are the rewinding client's own with lower numbers. A client that has not been seen may always begin.
package struct RewindFence {
    private var users: [ClientID] = []
    private var fenced: [ClientID] = []
    private var rewind: Tag?
    private var claim = Claim.none
    /// One client at a time uses a sequence: more than a few are not on their way.
    private static let clientsMax = 16

    package init() {}

    package mutating func stepped(_ tag: Tag) {
        if !users.contains(tag.client) { Self.append(tag.client, to: &users) }
    }

    /// Refuses a rewind of an older claim than an earlier one's: another client has resumed the sequence since, and may
    /// have sent operations that only a new claim fences off.
    ///
    /// - Parameter epoch: the one that is served. What is known here is forgotten with it, so a claim of another is no
    ///   proof of anything.
    package func check(_ claim: Claim, of sequence: SequenceID, in epoch: Epoch) throws(ServiceError) {
        guard claim < self.claim || !claim.isOf(epoch) else { return }
        throw ServiceError(
            .claimed,
            "\(sequence) was claimed again after \(claim): by another client, or before \(epoch). Resume it.")
    }

    package mutating func rewound(_ tag: Tag, _ claim: Claim) {
        self.claim = claim
        for user in users where !fenced.contains(user) { Self.append(user, to: &fenced) }
        fenced.removeAll { $0 == tag.client }
        users = [tag.client]
        rewind = tag
    }

    package func isTooLate(_ tag: Tag) -> Bool {
        if let rewind, rewind.client == tag.client, rewind.number > tag.number { return true }
        return fenced.contains(tag.client)
    }

    private static func append(_ client: ClientID, to clients: inout [ClientID]) {
        if clients.count == clientsMax { clients.removeFirst() }
        clients.append(client)
    }
}
