/// Why a connection was refused. The raw value is its name in the journal and never changes.
public enum RefusalCause: String, CaseIterable, Sendable {
    /// A Unix socket's peer has a user and groups that are not allowed.
    case wrongUser = "wrong-uid"
    /// A TLS port was sent something else than TLS.
    case plainText = "plain-text"
    case noCertificate = "no-certificate"
    /// The certificate is not from an authority of the cluster.
    case unknownAuthority = "unknown-authority"
    /// The certificate is valid no more, or not yet.
    case expired
    /// The certificate is good and does not allow what the hello claims to be.
    case wrongRole = "wrong-role"
    /// A client that is known asked for more than it may. Only the request is refused.
    case missingRight = "missing-right"
    /// TLS failed in another way: an old version, a peer that does not accept this daemon's certificate.
    case failedHandshake = "failed-handshake"
    /// No hello within `handshakeTimeout`.
    case timeout
    /// More bytes before the hello than `handshakeByteCountMax`, or a hello that announces too many.
    case oversizedHello = "oversized-hello"
    case tooManyOfPeer = "too-many-of-peer"
    case tooManyUnauthenticated = "too-many-unauthenticated"
    case tooMany = "too-many"
    /// Bytes that are not this protocol, or break its rules, before the hello.
    case notDCP = "not-dcp"
    /// Another version, or another cluster's layout.
    case incompatible
    /// A frame that began and did not end within `frameTimeout`.
    case unfinishedFrame = "unfinished-frame"
    /// A frame that had begun first of all when they were more bytes than `unfinishedFrames` allows.
    case tooManyUnfinished = "too-many-unfinished"
    /// A peer that is known broke the rules.
    case protocolViolation = "protocol-violation"

    /// Those for which a connection is refused.
    public static let ofConnections = allCases.filter { $0 != .missingRight }

    /// Whether it was a frame, and not the connection, that was refused.
    public var concernsFrame: Bool {
        switch self {
        case .oversizedHello, .notDCP, .incompatible, .wrongRole, .protocolViolation, .unfinishedFrame,
            .tooManyUnfinished:
            true
        default: false
        }
    }
}

/// How many connections were refused since the start, by cause.
public struct RefusedConnections: Hashable, Sendable {
    private var counts: [RefusalCause: UInt64] = [:]

    public init() {}

    public subscript(cause: RefusalCause) -> UInt64 { counts[cause] ?? 0 }
    public var total: UInt64 { counts.values.reduce(0, +) }

    mutating func count(_ cause: RefusalCause) { counts[cause, default: 0] += 1 }
}
