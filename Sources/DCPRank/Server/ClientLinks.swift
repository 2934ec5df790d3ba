// SPDX-License-Identifier: Apache-2.0

internal import DCPTransport

/// The open links of clients, each with its place in the order they came.
struct ClientLinks {
    private var links: [ObjectIdentifier: (ordinal: SequenceOwners.Connection, link: Link)] = [:]
    private var next: SequenceOwners.Connection = 0

    var count: Int { links.count }
    var isEmpty: Bool { links.isEmpty }

    /// In the order they came, so that notices to several clients have the same order in every run.
    var inOrder: [Link] { links.values.sorted { $0.ordinal < $1.ordinal }.map(\.link) }

    func contains(_ link: Link) -> Bool { links[ObjectIdentifier(link)] != nil }

    /// The number of a client's link; nil for one that is closed, or is not a client's.
    func ordinal(of link: Link) -> SequenceOwners.Connection? { links[ObjectIdentifier(link)]?.ordinal }

    mutating func opened(_ link: Link) {
        links[ObjectIdentifier(link)] = (next, link)
        next += 1
    }

    /// - Returns: its number, if it is a client's.
    mutating func closed(_ link: Link) -> SequenceOwners.Connection? {
        links.removeValue(forKey: ObjectIdentifier(link))?.ordinal
    }

    mutating func removeAll() { links = [:] }
}
