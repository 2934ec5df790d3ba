// SPDX-License-Identifier: Apache-2.0

public import DCPCore
internal import Glibc
public import NIOCore
internal import NIOSSL

/// Accepts links at one endpoint. Confined to one event loop, which all its links share.
public final class Listener {
    private let eventLoop: any EventLoop
    private let settings: LinkSettings
    private let role: CertificateRole
    private let inheritedSocket: CInt?
    private var channel: (any Channel)?
    private var admission: Admission

    /// Counters of the connections accepted here.
    public private(set) var refused = RefusedConnections()

    /// Its address, with the port chosen by the system if 0 was requested.
    public private(set) var endpoint: Endpoint

    /// - Parameters:
    ///   - role: the daemon's role, which determines the roles that peers may have.
    ///   - inheritedSocket: a socket of that endpoint which listens already, passed by a service manager. It is
    ///     the manager's: its file stays when this listener stops, and clients wait in its queue until the next one
    ///     starts.
    public init(
        _ endpoint: Endpoint, as role: CertificateRole, inheritedSocket: CInt? = nil, eventLoop: any EventLoop,
        settings: LinkSettings = LinkSettings()
    ) {
        self.endpoint = endpoint
        self.role = role
        admission = Admission(limits: settings.admission)
        self.inheritedSocket = inheritedSocket
        self.eventLoop = eventLoop
        self.settings = settings
    }

    /// Starts accepting.
    ///
    /// A stale socket file is replaced, and one at which a process listens is not.
    /// The future fails with a `ServiceError` that names the endpoint.
    package func start(delegate: any LinkDelegate) -> EventLoopFuture<Void> {
        eventLoop.preconditionInEventLoop()
        let bound = NIOLoopBound((listener: self, delegate: delegate), eventLoop: eventLoop)
        let endpoint = endpoint
        let network = inheritedSocket.map { SocketNetwork(inheritedSocket: $0) } ?? settings.network
        let bind = network.listen(at: endpoint, on: eventLoop) { channel in
            bound.value.listener.admit(channel, delegate: bound.value.delegate)
        }
        return bind.flatMapErrorThrowing { error in
            throw ServiceError(
                NetworkFailure.code(ofListening: error),
                "Cannot listen at \(endpoint) (\(NetworkFailure.reason(of: error))); choose another --listen address.")
        }.map { channel in
            bound.value.listener.bound(to: channel)
        }
    }

    /// Admits or refuses a connection before its first byte is read.
    private func admit(_ channel: any Channel, delegate: any LinkDelegate) -> EventLoopFuture<Void> {
        let bound = NIOLoopBound((listener: self, delegate: delegate), eventLoop: eventLoop)
        guard case .unix = endpoint, let access = settings.unixAccess else {
            let peer = channel.remoteAddress?.ipAddress.map { Admission.Peer.address($0) } ?? .unknown
            return eventLoop.makeCompletedFuture { try attach(channel, of: peer, .unlimited, refusal: nil, delegate) }
        }
        return PeerCredentials.read(from: channel).flatMapThrowing { credentials in
            let (listener, delegate) = bound.value
            try listener.attach(
                channel, of: .user(credentials.user), access.caller(credentials),
                refusal: access.refusal(of: credentials), delegate)
        }
    }

    private func attach(
        _ channel: any Channel, of peer: Admission.Peer, _ caller: Caller, refusal: Refusal?,
        _ delegate: any LinkDelegate
    ) throws {
        var refusal = refusal ?? admission.enter(peer)
        let credentials = endpoint.isTCP ? settings.tls : nil
        refusal?.isTold = credentials == nil
        let tls = refusal == nil ? credentials?.makeAcceptor() : nil
        let bound = NIOLoopBound(self, eventLoop: eventLoop)
        let link = Link(
            channel: channel, side: .accepted(by: role), settings: settings, delegate: delegate,
            passage: settings.passage(at: endpoint), tls: tls, turnedAway: refusal, caller: caller
        ) { bound.value.admission.authenticated(peer) }
        link.refused = { bound.value.refused.count($0) }
        let boundLink = NIOLoopBound(link, eventLoop: eventLoop)
        let hasEntered = refusal == nil
        channel.closeFuture.whenComplete { _ in
            let (listener, link) = (bound.value, boundLink.value)
            link.tellRefusal()
            if hasEntered { listener.admission.leave(peer, wasAuthenticated: link.wasAuthenticated) }
        }
        let handlers = channel.pipeline.syncOperations
        if refusal == nil {
            try handlers.addHandler(
                GreetingGuard(
                    link: link, expectsTLS: tls != nil, byteCountMax: settings.admission.handshakeByteCountMax))
        }
        if let tls { try handlers.addHandler(tls) }
        try handlers.addHandler(LinkHandler(link: link))
    }

    private func bound(to channel: any Channel) {
        self.channel = channel
        if case .unix(let path) = endpoint, settings.memory != nil { SocketPassage.removeLeftovers(beside: path) }
        guard inheritedSocket == nil else { return }
        switch endpoint {
        case .unix(let path):
            // The peer's credentials are checked in addition to the mode; before this call only they protect the
            // socket.
            chmod(path, settings.unixAccess?.namesOthers == true ? 0o666 : 0o600)
        case .tcp(let host, let port):
            if port == 0, let chosen = channel.localAddress?.port { endpoint = .tcp(host: host, port: chosen) }
        }
    }

    /// Stops accepting; open links stay.
    public func stop() {
        eventLoop.preconditionInEventLoop()
        // Removes the file of a socket that it bound itself.
        channel?.close(promise: nil)
        channel = nil
    }
}
