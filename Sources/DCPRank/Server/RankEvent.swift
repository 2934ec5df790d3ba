// SPDX-License-Identifier: Apache-2.0

public import DCPCore
public import DCPTransport
public import DCPWire
public import NIOCore

/// Events of a rank. The library reports them; the daemon logs each once.
public enum RankEvent: Sendable {
    case listening(String)
    case coordinatorConnected
    /// The rank keeps serving in its epoch, and keeps reconnecting.
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
    /// A client was gone for too long, and its uncommitted tokens were rolled back.
    case claimEnded(SequenceID, tokens: Int, after: TimeAmount)
    /// They could not be rolled back: they stay until a client resumes the sequence.
    case claimNotEnded(SequenceID, ServiceError)
    /// The store takes no new tokens, for a reason, or takes them again.
    case storeCondition(refusal: ServiceError?)
    /// A verification has ended, or could not continue.
    case verified(findings: Int, damage: Int, failure: String?)
    /// The rank cannot serve under this configuration; the daemon ends.
    case fatal(ServiceError)
}
