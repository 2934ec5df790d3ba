// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPTransport
internal import DCPWire

/// The exchange of step messages with the ranks of a head group: tensors, verdicts, and notices that tokens are in
/// place.
///
/// A step decides what goes to which rank (`StepMachine+Messages.swift`). The link chooses the transport, invisibly to
/// the step.
struct GroupPort {
    private let own: RankIndex
    private let cluster: ClusterShape
    private let peers: PeerLinks

    init(of own: RankIndex, in cluster: ClusterShape, _ peers: PeerLinks) {
        self.own = own
        self.cluster = cluster
        self.peers = peers
    }

    /// Sends to another rank of a step's group.
    func send(_ message: Message, of tag: Tag, in epoch: Epoch, to member: Int) throws(ServiceError) {
        let rank = cluster.rank(headGroup: cluster.headGroup(of: own), contextRank: member)
        guard let link = peers.link(to: rank) else {
            throw ServiceError(
                .rankUnavailable, "\(own) has no connection to \(rank); try again when it is back.", rank: rank)
        }
        try link.send(Frame(epoch: epoch, tag: tag, sender: own, message: message))
    }

    /// Tells the group the verdict on a step that is none here. A peer that cannot be told has lost its link, which
    /// fails its steps.
    func abort(_ tag: Tag, in epoch: Epoch, _ verdict: ServiceError) {
        for peer in peers.links {
            do throws(ServiceError) {
                try peer.send(Frame(epoch: epoch, tag: tag, sender: own, message: .abort(verdict)))
            } catch {
                peer.close(error)
            }
        }
    }

    /// Which context rank a frame is from that has come over a rank's link.
    /// - Throws: for a frame after which the link is closed: one that no rank sends, or in another rank's name, or why the
    ///   rank is about to close the link.
    func sender(of frame: Frame, over rank: RankIndex) throws(ServiceError) -> Int {
        if case .failure(let error) = frame.message { throw error }
        guard StepMachine.isFromGroup(frame.message) else {
            throw ServiceError(
                .protocolViolation, "\(rank) sent a \(frame.message.type) frame, which no rank sends.")
        }
        guard frame.sender == rank else {
            throw ServiceError(.protocolViolation, "\(rank) sent a frame in another rank's name.")
        }
        return cluster.contextRank(of: rank)
    }
}
