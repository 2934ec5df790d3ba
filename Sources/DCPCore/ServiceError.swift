// SPDX-License-Identifier: Apache-2.0

/// A failure for a user, an operator or a program to act on: what happened, to which value, and what to do.
///
/// It is sent over the wire, so a rank's reason reaches the client verbatim. `message` is one or two sentences that
/// name the value, the limit and the remedy.
public struct ServiceError: Error, Hashable, Sendable, CustomStringConvertible {
    public var code: Code
    public var message: String
    /// The rank that failed or reports the failure, if any.
    public var rank: RankIndex?

    public init(_ code: Code, _ message: String, rank: RankIndex? = nil) {
        self.code = code
        self.message = message
        self.rank = rank
    }

    /// The kind of failure. The raw value is its number on the wire and never changes.
    public struct Code: RawRepresentable, Hashable, Sendable, CustomStringConvertible {
        public let rawValue: UInt16
        public init(rawValue: UInt16) { self.rawValue = rawValue }

        /// The request or a file is invalid; sending it again does not help.
        public static let invalidRequest = Code(rawValue: 1)
        public static let invalidConfiguration = Code(rawValue: 2)
        public static let invalidModel = Code(rawValue: 3)
        /// A model of this name exists with another shape.
        public static let modelMismatch = Code(rawValue: 4)
        public static let unknownModel = Code(rawValue: 5)
        public static let unknownSequence = Code(rawValue: 6)
        /// A step does not start where the layer ends.
        public static let positionMismatch = Code(rawValue: 7)
        /// Peers differ in version, layout or identity.
        public static let incompatible = Code(rawValue: 8)
        /// Bytes of another protocol, or a violation of its rules.
        public static let protocolViolation = Code(rawValue: 9)
        /// The store belongs to another rank or cluster, is in use, or has another format.
        public static let storeRefused = Code(rawValue: 10)
        /// A stored value fails its checksum or its length.
        public static let storeDamaged = Code(rawValue: 11)
        /// A name is taken, or an object is in use.
        public static let conflict = Code(rawValue: 12)
        /// The sequence was closed to make room in a full store; it must be prefilled again.
        public static let evicted = Code(rawValue: 13)
        /// The user, certificate, role or right does not allow it.
        public static let accessDenied = Code(rawValue: 14)
        /// Another client has claimed the sequence. Resuming takes it over again.
        public static let claimed = Code(rawValue: 15)

        /// The cluster is not complete; it answers again when it is.
        public static let notReady = Code(rawValue: 101)
        public static let staleEpoch = Code(rawValue: 102)
        /// A bounded queue or buffer is full.
        public static let overloaded = Code(rawValue: 103)
        public static let rankUnavailable = Code(rawValue: 104)
        public static let deadlineExceeded = Code(rawValue: 105)
        public static let storeFull = Code(rawValue: 106)
        public static let shuttingDown = Code(rawValue: 107)
        /// A step that this one builds on was aborted.
        public static let stepAborted = Code(rawValue: 108)
        /// No daemon listens at the address, or none can for now.
        public static let unreachable = Code(rawValue: 109)

        /// A bug of ours.
        public static let `internal` = Code(rawValue: 200)

        /// Whether the same request may succeed later without a change. Only the number decides, so that an old client
        /// handles a new code correctly.
        public var isRetryable: Bool { (100..<200).contains(rawValue) }

        private static let names: [Code: String] = [
            .invalidRequest: "invalid request", .invalidConfiguration: "invalid configuration",
            .invalidModel: "invalid model", .modelMismatch: "model mismatch", .unknownModel: "unknown model",
            .unknownSequence: "unknown sequence", .positionMismatch: "position mismatch",
            .incompatible: "incompatible", .protocolViolation: "protocol violation",
            .storeRefused: "store refused", .storeDamaged: "store damaged", .conflict: "conflict",
            .evicted: "evicted", .accessDenied: "access denied", .claimed: "claimed",
            .notReady: "not ready", .staleEpoch: "stale epoch", .overloaded: "overloaded",
            .rankUnavailable: "rank unavailable", .deadlineExceeded: "deadline exceeded", .storeFull: "store full",
            .shuttingDown: "shutting down", .stepAborted: "step aborted", .unreachable: "unreachable",
            .internal: "internal error",
        ]

        public var description: String { Self.names[self] ?? "error \(rawValue)" }
    }

    public var isRetryable: Bool { code.isRetryable }

    public var description: String {
        let origin = rank.map { " (\($0))" } ?? ""
        return "\(code)\(origin): \(message)"
    }
}
