// SPDX-License-Identifier: Apache-2.0

/// The meaning of a frame: its number on the wire, which never changes, and its name for messages.
///
/// This type lists the notices, which are not answered or are answered by a notice. A request's number is in its
/// declaration; its reply has the same number with the highest bit set.
public struct FrameType: Sendable {
    public let rawValue: UInt16
    private let name: StaticString

    private init(_ rawValue: UInt16, _ name: StaticString) {
        self.rawValue = rawValue
        self.name = name
    }

    /// - Parameter number: `0x01nn` for requests to the coordinator, `0x02nn` to a rank, `0x03nn` to any daemon.
    package init(request number: UInt16, _ name: StaticString) {
        precondition(Self.requests.contains(number), "\(number) is not a request number")
        self.init(number, name)
    }

    /// The type for a number in a header; nil for a notice that is unknown to this version.
    package init?(rawValue: UInt16) {
        let number = rawValue & ~Self.replyBit
        if Self.requests.contains(number) {
            self.init(rawValue, number == rawValue ? "request" : "reply")
        } else if let known = Self.notices.first(where: { $0.rawValue == rawValue }) {
            self = known
        } else {
            return nil
        }
    }

    private static let requests: ClosedRange<UInt16> = 0x0100...0x7FFF
    private static let replyBit: UInt16 = 0x8000

    var isRequest: Bool { Self.requests.contains(rawValue) }
    var isReply: Bool { rawValue & Self.replyBit != 0 }

    /// The type of the reply to a request of this type.
    package var reply: FrameType { FrameType(rawValue | Self.replyBit, name) }

    /// Frames that are allowed before the handshake is complete.
    var isGreeting: Bool { self == .hello || self == .welcome || self == .failure }

    // Any connection.
    public static let hello = FrameType(1, "hello")
    public static let welcome = FrameType(2, "welcome")
    /// Answers any request, or ends a connection: a `ServiceError`.
    public static let failure = FrameType(3, "failure")

    // Rank and coordinator.
    public static let register = FrameType(10, "register")
    public static let renewLease = FrameType(11, "renewLease")
    public static let leaseRenewed = FrameType(12, "leaseRenewed")
    public static let topology = FrameType(13, "topology")
    public static let linksReady = FrameType(14, "linksReady")
    public static let operation = FrameType(15, "operation")
    public static let operationDone = FrameType(16, "operationDone")
    /// From the coordinator: why ranks of the cluster refuse new tokens.
    public static let refusals = FrameType(17, "refusals")
    /// From the coordinator: which of these sequences to close, to free what the rank wants.
    public static let victimsRequest = FrameType(18, "victimsRequest")
    public static let victims = FrameType(19, "victims")
    /// From the coordinator: which sequence begins with these token ids.
    public static let matchRequest = FrameType(20, "matchRequest")
    public static let matched = FrameType(21, "matched")
    /// From the coordinator: how much of these sequences the rank has committed and intact.
    public static let lengthsRequest = FrameType(22, "lengthsRequest")
    public static let lengths = FrameType(23, "lengths")
    /// From the coordinator: the names and models of these sequences.
    public static let recordsRequest = FrameType(24, "recordsRequest")
    public static let records = FrameType(25, "records")
    /// From the coordinator: hold a snapshot of the store for a backup.
    public static let copyRequest = FrameType(26, "copyRequest")
    public static let copyHeld = FrameType(27, "copyHeld")
    /// From the coordinator: the number of changes in its directory, which the rank records.
    public static let directoryMark = FrameType(28, "directoryMark")
    /// From a rank, after its registration in a new epoch: the sequences in its store.
    public static let heldSequences = FrameType(29, "heldSequences")

    // Both ends of a connection that may share memory. From the accepting side: where to send the memory.
    public static let memoryRequest = FrameType(40, "memoryRequest")
    public static let memorySent = FrameType(41, "memorySent")
    public static let memoryTaken = FrameType(42, "memoryTaken")

    // Rank and rank, inside a head group.
    public static let query = FrameType(50, "query")
    public static let partial = FrameType(51, "partial")
    public static let logSumExp = FrameType(52, "logSumExp")
    public static let corrected = FrameType(53, "corrected")
    public static let abort = FrameType(54, "abort")
    public static let appended = FrameType(55, "appended")

    public static let notices: [FrameType] = [
        .hello, .welcome, .failure, .register, .renewLease, .leaseRenewed, .topology, .linksReady, .operation,
        .operationDone, .refusals, .victimsRequest, .victims, .matchRequest, .matched, .lengthsRequest, .lengths,
        .recordsRequest, .records, .copyRequest, .copyHeld, .directoryMark, .heldSequences, .memoryRequest, .memorySent,
        .memoryTaken,
        .query, .partial, .logSumExp, .corrected, .abort, .appended,
    ]
}

extension FrameType: Hashable {
    public static func == (a: FrameType, b: FrameType) -> Bool { a.rawValue == b.rawValue }
    public func hash(into hasher: inout Hasher) { hasher.combine(rawValue) }
}

extension FrameType: CustomStringConvertible {
    /// `step`, `step reply`; with its number if a request's name is unknown, as in a header: `request 0x201`.
    public var description: String {
        let isUnnamed = "\(name)" == "request" || "\(name)" == "reply"
        if isUnnamed { return "\(name) 0x" + String(rawValue & ~Self.replyBit, radix: 16) }
        return isReply ? "\(name) reply" : "\(name)"
    }
}
