// SPDX-License-Identifier: Apache-2.0

/// A role that a certificate gives its holder in a cluster: a URI in its subject alternative name.
///
/// ```
/// dcp:coordinator    dcp:rank:3    dcp:client:alice    dcp:client:bob:read
/// ```
///
/// A certificate may have several roles. Roles identify a peer, not host names: a rank keeps its number when its host
/// or its address changes.
public enum CertificateRole: Hashable, Sendable {
    case coordinator
    case rank(RankIndex)
    /// The name must pass ``isClientName(_:)``. A URI without a right has all rights.
    case client(String, ClientRight = .administer)

    /// The role of a URI; nil for other URIs, and for a spelling that differs from ``uri``.
    public init?(uri: String) {
        let parts = uri.split(separator: ":", omittingEmptySubsequences: false).map(String.init)
        switch (parts.first, parts.count) {
        case ("dcp", 2) where parts[1] == "coordinator":
            self = .coordinator
        case ("dcp", 3) where parts[1] == "rank":
            guard let value = UInt16(parts[2]), "\(value)" == parts[2] else { return nil }
            self = .rank(RankIndex(value))
        case ("dcp", 3) where parts[1] == "client":
            guard Self.isClientName(parts[2]) else { return nil }
            self = .client(parts[2])
        case ("dcp", 4) where parts[1] == "client":
            guard Self.isClientName(parts[2]), let right = ClientRight(rawValue: parts[3]), right < .administer else {
                return nil
            }
            self = .client(parts[2], right)
        default:
            return nil
        }
    }

    public var uri: String {
        switch self {
        case .coordinator: "dcp:coordinator"
        case .rank(let rank): "dcp:rank:\(rank.value)"
        case .client(let name, .administer): "dcp:client:\(name)"
        case .client(let name, let right): "dcp:client:\(name):\(right)"
        }
    }

    /// 1 to 64 ASCII letters, digits, `.`, `_` and `-`, beginning with a letter or a digit: the name is part of a URI and of
    /// a file's name. It does not end with `-key`, or the certificate of `a-key` would be named as the key of `a` is.
    public static func isClientName(_ name: String) -> Bool {
        func isAlphanumeric(_ byte: UInt8) -> Bool {
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                UInt8(ascii: "0")...UInt8(ascii: "9"):
                true
            default: false
            }
        }
        guard let first = name.utf8.first, isAlphanumeric(first), name.utf8.count <= 64 else { return false }
        return !name.hasSuffix("-key")
            && name.utf8.allSatisfy { isAlphanumeric($0) || ".-_".utf8.contains($0) }
    }
}

extension CertificateRole: CustomStringConvertible {
    public var description: String {
        switch self {
        case .coordinator: "the coordinator"
        case .rank(let rank): "\(rank)"
        case .client(let name, _): "client `\(name)`"
        }
    }
}
