// SPDX-License-Identifier: Apache-2.0

/// The rights of a client in a cluster. Each includes those before it: `read < use < administer`.
///
/// - `read`: status, lists, matches, exports: read-only operations.
/// - `use`: steps and commits, and every operation on the client's own sequences.
/// - `administer`: also others' sequences, pins, models, verifications and stores.
public enum ClientRight: String, CaseIterable, Sendable {
    case read
    case use
    case administer
}

extension ClientRight: Comparable {
    public static func < (a: ClientRight, b: ClientRight) -> Bool { a.level < b.level }
    private var level: Int { Self.allCases.firstIndex(of: self)! }
}

/// A client from a daemon's view: its identity and its right. All rules about rights are here.
public struct Caller: Hashable, Sendable {
    /// `client:alice` from its certificate, `uid:1000` at a Unix socket; empty if clients are not authenticated.
    public let identity: String
    public let right: ClientRight

    public init(identity: String, right: ClientRight) {
        self.identity = identity
        self.right = right
    }

    /// A client that connects where clients are not authenticated.
    public static let unlimited = Caller(identity: "", right: .administer)

    /// - Parameters:
    ///   - needed: the least right that the request takes.
    ///   - what: the request, for the message; evaluated only for that, since every request is checked.
    /// - Throws: `.accessDenied` with the missing right and how to grant it.
    public func check(_ needed: ClientRight, for what: @autoclosure () -> String) throws(ServiceError) {
        guard right < needed else { return }
        throw ServiceError(
            .accessDenied,
            "\(identity) has the right to \(right), but \(what()) requires the right to \(needed). \(remedy(needed))")
    }

    /// A sequence may be changed by its owner and by clients that may administer. A sequence without an owner may be
    /// changed by every client that may use the cluster.
    public func mayChange(ownedBy owner: String) -> Bool {
        right == .administer || right == .use && (owner.isEmpty || owner == identity)
    }

    /// - Parameters:
    ///   - sequence: for the message, as above.
    ///   - owner: the identity of its owner; empty for none.
    /// - Throws: `.accessDenied` with the owner, the missing right and how to grant it.
    public func checkChange(of sequence: @autoclosure () -> String, ownedBy owner: String) throws(ServiceError) {
        guard !mayChange(ownedBy: owner) else { return }
        try check(.use, for: "a change of \(sequence())")
        throw ServiceError(
            .accessDenied,
            "\(sequence()) belongs to \(owner), and \(identity) has the right to \(right) only its own sequences; "
                + "those of others require the right to \(ClientRight.administer). \(remedy(.administer))")
    }

    private func remedy(_ needed: ClientRight) -> String {
        if identity.hasPrefix("uid:") {
            return "Grant it by adding the user to `rights` in the dcp.yaml of every daemon."
        }
        return "Grant it with a new certificate: dcpctl certs add --client NAME --rights \(needed)."
    }
}

extension ClientRight: CustomStringConvertible {
    public var description: String { rawValue }
}
