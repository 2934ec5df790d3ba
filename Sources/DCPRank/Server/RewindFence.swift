internal import DCPCore
internal import DCPWire

/// Which steps on one sequence were sent before its last rewind, and so come too late, as a value.
///
/// A client that drops its connections may have steps on the way, which reach a rank after the rewind of the client that
/// follows it. Those of clients that had used the sequence before the rewind are refused until they rewind themselves; so
/// are the rewinding client's own with lower numbers. A client that has not been seen may always begin.
struct RewindFence {
    private var users: [ClientID] = []
    private var fenced: [ClientID] = []
    private var rewind: Tag?
    /// One client at a time uses a sequence: more than a few are not on their way.
    private static let clientsMax = 16

    mutating func stepped(_ tag: Tag) {
        if !users.contains(tag.client) { Self.append(tag.client, to: &users) }
    }

    mutating func rewound(_ tag: Tag) {
        for user in users where !fenced.contains(user) { Self.append(user, to: &fenced) }
        fenced.removeAll { $0 == tag.client }
        users = [tag.client]
        rewind = tag
    }

    func isTooLate(_ tag: Tag) -> Bool {
        if let rewind, rewind.client == tag.client, rewind.number > tag.number { return true }
        return fenced.contains(tag.client)
    }

    private static func append(_ client: ClientID, to clients: inout [ClientID]) {
        if clients.count == clientsMax { clients.removeFirst() }
        clients.append(client)
    }
}
