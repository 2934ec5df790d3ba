/// What a client may do in a cluster. Each includes those before it: `read < use < administer`.
///
/// - `read`: status, lists, matches, exports; nothing that it does changes anything.
/// - `use`: steps and commits, and everything else about the sequences that it has made itself.
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

/// A client as a daemon knows it: who it is, and what it may do. All rules about rights are here.
public struct Caller: Hashable, Sendable {
    /// `client:alice` by its certificate, `uid:1000` at a Unix socket; empty where nobody is asked who he is.
    public let identity: String
    public let right: ClientRight

    public init(identity: String, right: ClientRight) {
        self.identity = identity
        self.right = right
    }

    /// Whoever connects where nobody is asked.
    public static let unlimited = Caller(identity: "", right: .administer)

    /// - Parameter what: a request, for the message.
    /// - Throws: `.accessDenied`, naming the right that is missing and how it is given.
    public func check(_ needed: ClientRight, for what: String) throws(ServiceError) {
        guard right < needed else { return }
        throw ServiceError(
            .accessDenied,
            "\(identity) has the right to \(right), but \(what) requires the right to \(needed). \(remedy(needed))")
    }

    /// A sequence is changed by whoever has made it, and by those who administer. What belongs to nobody is anybody's who uses the
    /// cluster.
    public func mayChange(ownedBy owner: String) -> Bool {
        right == .administer || right == .use && (owner.isEmpty || owner == identity)
    }

    /// - Throws: `.accessDenied`, naming the owner, the right that is missing and how it is given.
    public func checkChange(of sequence: String, ownedBy owner: String) throws(ServiceError) {
        guard !mayChange(ownedBy: owner) else { return }
        try check(.use, for: "a change of \(sequence)")
        throw ServiceError(
            .accessDenied,
            "\(sequence) belongs to \(owner), and \(identity) may \(right) only its own sequences; those of others "
                + "require the right to "
                + "\(ClientRight.administer). \(remedy(.administer))")
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
