/// What a frame means. The raw value is its number on the wire and never changes.
public enum FrameType: UInt16, CaseIterable, Sendable {
    // Any connection.
    case hello = 1
    case welcome = 2
    /// Answers any request, or ends a connection: a `ServiceError`.
    case failure = 3

    // Rank and coordinator.
    case register = 10
    case renewLease = 11
    case leaseRenewed = 12
    /// From the coordinator: to a rank unasked, to a client in answer.
    case topology = 13
    case linksReady = 14
    case operation = 15
    case operationDone = 16
    /// From the coordinator: why ranks of the cluster take no new tokens.
    case refusals = 17
    /// From the coordinator: which of these sequences to close, to free what the rank wants.
    case victimsRequest = 18
    case victims = 19

    // Client and coordinator.
    case topologyRequest = 20
    case directoryRequest = 21
    case directoryReply = 22

    // Client and rank.
    case step = 30
    case stepResult = 31
    case commit = 32
    case committed = 33
    case sequenceStatusRequest = 34
    case sequenceStatus = 35
    case rewind = 36
    case rewound = 37
    case rankStatusRequest = 38
    case rankStatus = 39
    case verificationRequest = 40
    case verification = 41
    case rowsRequest = 42
    case rows = 43

    // Rank and rank, inside a head group.
    case query = 50
    case partial = 51
    case logSumExp = 52
    case corrected = 53
    case abort = 54
    case appended = 55

    // Client and any daemon.
    case hostReportRequest = 60
    case hostReport = 61

    /// What may come before both sides know each other.
    var isGreeting: Bool { self == .hello || self == .welcome || self == .failure }
}
