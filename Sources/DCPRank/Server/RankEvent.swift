public import DCPCore
public import DCPTransport
public import DCPWire
public import NIOCore

/// What a rank did that somebody may want to know. The library reports; the daemon logs, once each.
public enum RankEvent: Sendable {
    case listening(String)
    case coordinatorConnected
    /// Serving goes on in the epoch that is held; dialling goes on too.
    case coordinatorLost(ServiceError)
    case joining(Epoch)
    case ready(Epoch)
    case notReady(reason: String)
    case peerConnected(RankIndex)
    /// Tensors of steps go through memory that both have.
    case memoryShared(RankIndex)
    /// Both would, and it could not be passed: tensors go with their frames.
    case memoryNotShared(RankIndex, ServiceError)
    case peerLost(RankIndex, ServiceError)
    /// It answers, and not as it should; it is dialled again.
    case peerNotReached(RankIndex, ServiceError)
    /// - Parameter after: since its request came; nil when it never began.
    case stepAborted(Tag, [SequenceID], ServiceError, after: TimeAmount?)
    /// The client was told.
    case commitFailed([SequenceID], ServiceError)
    /// A peer was turned away or broke the protocol.
    case refused(peer: String, RefusalCause, ServiceError)
    case operationFailed(DirectoryOperation, ServiceError)
    /// A client was gone for too long, and its uncommitted tokens were taken back.
    case claimEnded(SequenceID, tokens: Int, after: TimeAmount)
    /// They could not be: they stay until somebody resumes the sequence.
    case claimNotEnded(SequenceID, ServiceError)
    /// The store takes no new tokens, for a reason, or takes them again.
    case storeCondition(refusal: ServiceError?)
    /// A verification has come to its end, or could not go on.
    case verified(findings: Int, damage: Int, failure: String?)
    /// The rank cannot serve under this configuration; the daemon ends.
    case fatal(ServiceError)
}
