// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPTransport
internal import DCPWire
internal import NIOCore

/// The links to the other ranks of the head group: one a pair, dialled by the higher context rank.
///
/// A fixed direction, so that two ranks that start at the same moment do not make two links and then disagree about
/// which of them to keep.
final class PeerLinks {
    private struct Peer {
        /// nil until a topology has named it. The peer may dial before that.
        var endpoint: Endpoint?
        var link: Link?
        var isDialling = false
        /// Once for each time that the peer was lost: it is dialled several times a second.
        var hasReported = false
    }

    private let own: RankIndex
    private let dialer: Dialer
    private let eventLoop: any EventLoop
    private let redialDelay: TimeAmount
    /// A peer answers, and not as it should.
    private let report: (RankIndex, ServiceError) -> Void
    private let hello: Hello
    private var peers: [RankIndex: Peer] = [:]
    private weak var delegate: (any LinkDelegate)?
    private var isStopped = false

    init(
        own: RankIndex, group: [RankIndex], hello: Hello, dialer: Dialer, eventLoop: any EventLoop,
        redialDelay: TimeAmount, report: @escaping (RankIndex, ServiceError) -> Void
    ) {
        for rank in group where rank != own { peers[rank] = Peer() }
        self.own = own
        self.hello = hello
        self.dialer = dialer
        self.eventLoop = eventLoop
        self.redialDelay = redialDelay
        self.report = report
    }

    /// Whether every other rank of the group is reached.
    var isComplete: Bool { peers.values.allSatisfy { $0.link != nil } }

    /// How many others the group has.
    var count: Int { peers.count }

    /// Every other rank of the group, in order, and whether it is reached.
    var reached: [HostReport.Peer] {
        peers.sorted { $0.key < $1.key }.map {
            HostReport.Peer(
                rank: $0.key, isReached: $0.value.link != nil, sharesMemory: $0.value.link?.sharesMemory ?? false)
        }
    }

    func link(to rank: RankIndex) -> Link? { peers[rank]?.link }

    var links: [Link] { peers.sorted { $0.key < $1.key }.compactMap(\.value.link) }

    /// Takes the members of an epoch: keeps the links that still lead to the same place, dials the others that are
    /// this rank's to dial.
    func update(_ members: [(rank: RankIndex, endpoint: Endpoint)], delegate: any LinkDelegate) {
        self.delegate = delegate
        for (rank, endpoint) in members where rank != own {
            let known = peers[rank]?.endpoint
            peers[rank]?.endpoint = endpoint
            if let known, known != endpoint, let old = peers[rank]?.link {
                // `closed(_:)` dials the new endpoint.
                old.close(ServiceError(.staleEpoch, "\(rank) has moved to \(endpoint)."))
            } else {
                dialIfNeeded(rank)
            }
        }
    }

    /// An incoming or dialled link has become usable. Returns false when the rank is not of this group.
    func opened(_ link: Link, rank: RankIndex) -> Bool {
        guard var peer = peers[rank] else { return false }
        let old = peer.link
        peer.link = link
        peer.isDialling = false
        peer.hasReported = false
        peers[rank] = peer
        if let old, old !== link {
            old.close(ServiceError(.rankUnavailable, "\(rank) has reconnected; this link is older."))
        }
        return true
    }

    /// Returns the rank whose link this was, if it still was.
    func closed(_ link: Link) -> RankIndex? {
        guard let rank = peers.first(where: { $0.value.link === link })?.key else { return nil }
        peers[rank]?.link = nil
        redial(rank)
        return rank
    }

    /// A dialled link that never opened.
    func dialFailed(_ rank: RankIndex, _ error: ServiceError) {
        peers[rank]?.isDialling = false
        if !error.isRetryable, peers[rank]?.hasReported == false {
            peers[rank]?.hasReported = true
            report(rank, error)
        }
        redial(rank)
    }

    func stop() {
        isStopped = true
        for link in links { link.closeWhenFlushed(ServiceError(.shuttingDown, "\(own) is stopping.")) }
    }

    /// See `RankServer.abandon`.
    func abandon() {
        isStopped = true
        for rank in peers.keys { peers[rank]?.link = nil }
    }

    private func dialIfNeeded(_ rank: RankIndex) {
        guard !isStopped, own > rank, let delegate, var peer = peers[rank], let endpoint = peer.endpoint,
            peer.link == nil,
            !peer.isDialling
        else {
            return
        }
        peer.isDialling = true
        peers[rank] = peer
        let attempt = DialAttempt(rank: rank, peers: self, delegate: delegate)
        dialer.dial(endpoint, expecting: .rank(rank), hello: hello, delegate: attempt) { attempt.failed($0) }
    }

    private func redial(_ rank: RankIndex) {
        guard !isStopped, own > rank else { return }
        let bound = NIOLoopBound(self, eventLoop: eventLoop)
        eventLoop.scheduleTask(in: redialDelay) { bound.value.dialIfNeeded(rank) }
    }
}

/// Watches one dialled link until it opens: a refusal there is not the loss of a peer.
private final class DialAttempt: LinkDelegate {
    private let rank: RankIndex
    private weak var peers: PeerLinks?
    private weak var delegate: (any LinkDelegate)?
    private var isOpen = false
    /// The link holds its delegate weakly; the attempt lives as long as the link does.
    private var keepsItself: DialAttempt?

    init(rank: RankIndex, peers: PeerLinks, delegate: any LinkDelegate) {
        self.rank = rank
        self.peers = peers
        self.delegate = delegate
        keepsItself = self
    }

    func link(_ link: Link, accepts hello: Hello) throws(ServiceError) -> Hello {
        throw ServiceError(.internal, "An outbound link does not accept connections.")
    }

    func link(_ link: Link, opened peer: Hello) {
        guard peer.rank == rank else {
            link.close(
                ServiceError(
                    .incompatible,
                    "Expected \(rank) at this endpoint, but found \(peer.sender); check --listen."))
            return
        }
        isOpen = true
        delegate?.link(link, opened: peer)
    }

    func link(_ link: Link, received frame: Frame) { delegate?.link(link, received: frame) }

    func link(_ link: Link, sharesMemory result: Result<Void, ServiceError>) {
        delegate?.link(link, sharesMemory: result)
    }

    func link(_ link: Link, closed error: ServiceError) {
        if isOpen { delegate?.link(link, closed: error) }
        if !isOpen { failed(error) }
        keepsItself = nil
    }

    func failed(_ error: ServiceError) {
        keepsItself = nil
        peers?.dialFailed(rank, error)
    }
}
