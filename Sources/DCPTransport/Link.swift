// SPDX-License-Identifier: Apache-2.0

public import DCPCore
public import DCPWire
internal import NIOCore
internal import NIOSSL

/// A connection that carries frames.
///
/// Confined to its event loop. Lifecycle: `greeting → open → closed`. A dialling link sends its hello immediately, over
/// TLS after checking that the peer's certificate has the expected role. An accepting link waits for the hello, and
/// over TLS accepts it if the certificate has the role that the hello states. Both give up after `handshakeTimeout`.
/// Until then only a hello is read, with the limits of `.beforeHello`.
public final class Link {
    private enum State {
        case greeting(deadline: Scheduled<Void>)
        case open(Hello)
        case closed
    }

    /// Which side opened the connection; it sends the first frame.
    enum Side {
        case dialled(Endpoint, expecting: CertificateRole, hello: Hello)
        case accepted(by: CertificateRole)

        var memoryEnd: SharedRings.End {
            switch self {
            case .dialled: .dialling
            case .accepted: .accepting
            }
        }
    }

    private let channel: any Channel
    /// For closures that must not keep the link alive.
    lazy var bound = NIOLoopBound(WeakLink(self), eventLoop: channel.eventLoop)
    let side: Side
    private let settings: LinkSettings
    private(set) weak var delegate: (any LinkDelegate)?
    /// nil if payloads always go with their frames.
    let memory: LinkMemory?
    /// nil over a connection without TLS.
    let tls: NIOSSLHandler?
    /// Called once, when the hello has been accepted.
    private var authenticated: (() -> Void)?
    /// Called once, before the delegate's `closed`, if the peer was refused.
    var refused: ((RefusalCause) -> Void)?
    private(set) var wasAuthenticated = false
    /// The peer's identity as a client: first from the socket, and after its hello from its certificate.
    package internal(set) var caller: Caller
    private var turnedAway: Refusal?
    private var state: State
    let inbound = InboundFrames()
    /// Watches the frame whose first bytes are in `inbound`; from the hello on.
    private var frameWatch: FrameWatch?
    private let outbound: OutboundFrames
    private var closeReason: ServiceError?

    /// Total bytes over the life of the link.
    public private(set) var receivedByteCount: UInt64 = 0
    public var sentByteCount: UInt64 { outbound.writtenByteCount }
    /// Why this side refused the peer, if it did: it had no access, or violated the protocol.
    public private(set) var refusal: RefusalCause?

    /// - Parameters:
    ///   - passage: the way to share memory, if any.
    ///   - tls: in the channel's pipeline before this link.
    ///   - turnedAway: why the connection is closed immediately, if it is.
    ///   - caller: the peer's identity, unless its certificate states it.
    ///   - authenticated: called when the hello has been accepted.
    init(
        channel: any Channel, side: Side, settings: LinkSettings, delegate: any LinkDelegate,
        passage: (any MemoryPassage)? = nil, tls: NIOSSLHandler? = nil, turnedAway: Refusal? = nil,
        caller: Caller = .unlimited, authenticated: (() -> Void)? = nil
    ) {
        channel.eventLoop.preconditionInEventLoop()
        self.channel = channel
        self.side = side
        self.settings = settings
        self.delegate = delegate
        memory = passage.map { LinkMemory($0, at: side.memoryEnd, settings.memory ?? MemorySettings()) }
        self.tls = tls
        self.turnedAway = turnedAway
        self.caller = caller
        self.authenticated = authenticated
        self.state = .closed
        outbound = OutboundFrames(channel: channel, stallTimeout: settings.stallTimeout)
        if tls == nil { ReceiveAllocator.install(inbound, on: channel) }
        let bound = bound
        state = .greeting(
            deadline: channel.eventLoop.scheduleTask(in: settings.handshakeTimeout) {
                bound.value.link?.handshakeExpired()
            })
        outbound.stalled = { bound.value.link?.stalled() }
    }

    public var remoteAddress: String {
        if let address = channel.remoteAddress, address.port != nil { return "\(address)" }
        return channel.localAddress.map { "a peer on \($0)" } ?? "a peer"
    }

    var isGreeting: Bool {
        if case .greeting = state { return true }
        return false
    }

    /// The peer's hello, once it is known.
    public var peer: Hello? {
        if case .open(let hello) = state { return hello }
        return nil
    }

    /// The rank of a peer that is one. It is asked for each frame, without a copy of the whole hello.
    package var peerRank: RankIndex? {
        if case .open(let hello) = state { return hello.rank }
        return nil
    }

    /// What it holds of a frame that has not arrived completely.
    package var unfinishedByteCount: Int { inbound.unfinishedByteCount }

    private var peerName: String { peer?.sender ?? "The peer" }

    /// Sends a frame.
    /// - Parameter done: called on the loop, once, when the frame has been written or the link has ended; not if this
    ///   throws.
    /// - Throws: `.overloaded` if too many bytes are queued for this peer, `.rankUnavailable` if the link is closed,
    ///   `.invalidRequest` for a payload over the limit, which the peer would refuse.
    public func send(_ frame: Frame, done: (() -> Void)? = nil) throws(ServiceError) {
        channel.eventLoop.preconditionInEventLoop()
        guard case .open = state else {
            throw ServiceError(.rankUnavailable, "The connection is closed; try again.")
        }
        let body = frame.body
        let fieldsByteCount = body.fields.readableBytes
        guard fieldsByteCount <= settings.frameLimits.fieldsByteCountMax else {
            throw ServiceError(
                .invalidRequest,
                "A \(body.type) frame for \(peerName) has \(fieldsByteCount) bytes of fields, but the limit is "
                    + "\(settings.frameLimits.fieldsByteCountMax); request fewer sequences at once.")
        }
        guard outbound.queuedByteCount <= settings.outboundByteCountMax else {
            throw ServiceError(
                .overloaded,
                "\(outbound.queuedByteCount) bytes are already queued for \(peerName), but the limit is "
                    + "\(settings.outboundByteCountMax); send fewer or smaller steps at once.")
        }
        let payloadByteCount = body.payload.readableByteCount
        guard payloadByteCount <= settings.frameLimits.payloadByteCountMax else {
            throw ServiceError(
                .invalidRequest,
                "A \(body.type) frame for \(peerName) has \(payloadByteCount) bytes of payload, but the limit is "
                    + "\(settings.frameLimits.payloadByteCountMax); send fewer tokens in one step (dcpctl submit --chunk)."
            )
        }
        // After all checks that may refuse the frame: a payload in memory must be named by a frame, or it is never
        // taken.
        outbound.write(frame.encode(body, inMemory: try memoryPlace(for: body.payload)), done: done)
    }

    /// Closes immediately; queued bytes are lost.
    public func close(_ reason: ServiceError) {
        channel.eventLoop.preconditionInEventLoop()
        if closeReason == nil { closeReason = reason }
        outbound.flush()
        channel.close(promise: nil)
    }

    /// Sends the peer the reason, and closes when it and everything before it has been written.
    public func closeWhenFlushed(_ reason: ServiceError) {
        channel.eventLoop.preconditionInEventLoop()
        guard closeReason == nil else { return }
        closeReason = reason
        if case .open = state { write(.greeting(.failure(reason))) }
        outbound.closeWhenTaken()
    }

    func write(_ frame: Frame) { outbound.write(frame.encode()) }

    private func stalled() {
        let seconds = settings.stallTimeout.nanoseconds / 1_000_000_000
        close(
            ServiceError(
                .deadlineExceeded,
                "\(peerName) read none of the \(outbound.queuedByteCount) queued bytes within \(seconds) s; "
                    + "the connection was closed."))
    }

    private func handshakeExpired() {
        guard case .greeting = state else { return }
        let milliseconds = settings.handshakeTimeout.nanoseconds / 1_000_000
        let error = ServiceError(
            .deadlineExceeded,
            "The peer sent no hello within \(milliseconds) ms; the connection was closed. Raise handshake-timeout to "
                + "allow more."
        )
        if case .accepted = side, refusal == nil { refusal = .timeout }
        close(error)
    }
}

// MARK: - Called by the channel handler

extension Link {
    func becameActive() {
        if let turnedAway { return refuse(turnedAway) }
        if case .dialled(_, _, let hello) = side, tls == nil { write(.greeting(.hello(hello))) }
    }

    /// The channel reports an error, and is closed next.
    func failed(_ error: any Error) {
        guard closeReason == nil else { return }
        if case .greeting = state, let tls {
            let identity = tls.peerCertificate.map { TLSIdentity($0) }
            switch side {
            case .accepted:
                if let found = TLSFailure.refusal(error, identity: identity) {
                    refusal = found.cause
                    closeReason = found.error
                }
            case .dialled(let endpoint, _, _):
                closeReason = TLSFailure.dialError(error, identity: identity, endpoint: "\(endpoint)")
            }
        } else if case .uncleanShutdown? = error as? NIOSSLError {
            // The peer closed the connection without a failure frame, as a killed process does.
        } else {
            closeReason = ServiceError(.rankUnavailable, "The connection failed: \(NetworkFailure.reason(of: error)).")
        }
    }

    /// Refuses a peer that has not sent a hello yet. It gets the reason unless TLS is in between.
    func refuse(_ new: Refusal) {
        guard closeReason == nil else { return }
        refusal = new.cause
        if tls == nil, new.isTold { write(.greeting(.failure(new.error))) }
        close(new.error)
    }

    func received(_ bytes: inout ByteBuffer) {
        receivedByteCount += UInt64(bytes.readableBytes)
        if case .closed = state { return }
        // A link that sends its last bytes takes no frame any more, and would only hold what arrives.
        guard closeReason == nil else { return }
        inbound.append(&bytes)
        memory?.rings?.turnBegan()
        var hasEnded = false
        do throws(ServiceError) {
            while closeReason == nil, let frame = try inbound.next() {
                hasEnded = true
                try handle(frame)
                if case .closed = state { return }
            }
        } catch {
            refuse(error)
            return
        }
        frameWatch?.received(unfinished: inbound.unfinishedByteCount, hasEnded: hasEnded)
    }

    func becameInactive() {
        if case .greeting(let deadline) = state { deadline.cancel() }
        if case .closed = state { return }
        state = .closed
        outbound.end()
        frameWatch?.stop()
        inbound.clear()
        authenticated = nil
        tellRefusal()
        delegate?.link(
            self, closed: closeReason ?? ServiceError(.rankUnavailable, "The peer closed the connection."))
    }

    /// Also for a connection that ends before it is active.
    func tellRefusal() {
        guard let refusal else { return }
        refused?(refusal)
        refused = nil
    }

    private func handle(_ frame: Frame) throws(ServiceError) {
        switch state {
        case .open:
            if try !takeMemory(frame.message) { delegate?.link(self, received: frame) }
        case .greeting(let deadline):
            let peer = try greet(frame)
            deadline.cancel()
            // Writing the welcome to a peer that has gone closes the link and notifies its owner.
            guard case .greeting = state else { return }
            state = .open(peer)
            inbound.limits = settings.frameLimits
            frameWatch = makeFrameWatch()
            wasAuthenticated = true
            authenticated?()
            authenticated = nil
            delegate?.link(self, opened: peer)
            if closeReason == nil { requestMemory(of: peer) }
        case .closed:
            break
        }
    }

    private func makeFrameWatch() -> FrameWatch {
        FrameWatch(eventLoop: channel.eventLoop, settings: settings) { [weak self] cause, error in
            guard let self, closeReason == nil else { return }
            refusal = cause
            write(.greeting(.failure(error)))
            close(error)
        }
    }

    /// Closes the connection because of something the peer sent, with a failure frame if possible.
    func refuse(_ error: ServiceError) {
        refusal = cause(of: error)
        switch (side, state) {
        case (.accepted, _), (_, .open): write(.greeting(.failure(error)))
        default: break
        }
        close(error)
    }
}
