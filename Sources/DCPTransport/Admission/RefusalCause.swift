// SPDX-License-Identifier: Apache-2.0

/// Why a connection was refused. The raw value is its name in the journal and never changes.
public enum RefusalCause: String, CaseIterable, Sendable {
    /// The user and groups of a Unix socket's peer are not allowed.
    case wrongUser = "wrong-uid"
    /// Plain bytes were sent to a TLS port.
    case plainText = "plain-text"
    case noCertificate = "no-certificate"
    /// The certificate is not signed by an authority of the cluster.
    case unknownAuthority = "unknown-authority"
    /// The certificate has expired or is not valid yet.
    case expired
    /// The certificate is valid, but for another role than the hello states.
    case wrongRole = "wrong-role"
    /// An identified client lacks the right for a request. Only the request is refused.
    case missingRight = "missing-right"
    /// TLS failed in another way: an old version, or a peer that rejects this daemon's certificate.
    case failedHandshake = "failed-handshake"
    /// No hello within `handshakeTimeout`.
    case timeout
    /// More bytes before the hello than `handshakeByteCountMax`, or a hello that announces too many.
    case oversizedHello = "oversized-hello"
    case tooManyOfPeer = "too-many-of-peer"
    case tooManyUnauthenticated = "too-many-unauthenticated"
    case tooMany = "too-many"
    /// Bytes of another protocol, or a violation of its rules, before the hello.
    case notDCP = "not-dcp"
    /// Another version, or another cluster's layout.
    case incompatible
    /// A frame that began and did not end within `frameTimeout`.
    case unfinishedFrame = "unfinished-frame"
    /// The oldest unfinished frame when all together exceeded the limit of `unfinishedFrames`, or one for which the
    /// system had no memory.
    case tooManyUnfinished = "too-many-unfinished"
    /// An identified peer violated the protocol.
    case protocolViolation = "protocol-violation"

    /// Causes for which a connection is refused.
    public static let ofConnections = allCases.filter { $0 != .missingRight }

    /// Whether a frame was refused and not the connection.
    public var concernsFrame: Bool {
        switch self {
        case .oversizedHello, .notDCP, .incompatible, .wrongRole, .protocolViolation, .unfinishedFrame,
            .tooManyUnfinished:
            true
        default: false
        }
    }
}

/// Number of refused connections since the start, by cause.
public struct RefusedConnections: Hashable, Sendable {
    private var counts: [RefusalCause: UInt64] = [:]

    public init() {}

    public subscript(cause: RefusalCause) -> UInt64 { counts[cause] ?? 0 }
    public var total: UInt64 { counts.values.reduce(0, +) }

    mutating func count(_ cause: RefusalCause) { counts[cause, default: 0] += 1 }
}
