internal import DCPCore
internal import Glibc
public import NIOCore

/// Accepts links at one endpoint. Confined to one event loop, which all its links share.
public final class Listener {
    private let eventLoop: any EventLoop
    private let settings: LinkSettings
    private let inheritedSocket: CInt?
    private var channel: (any Channel)?
    private var connections = 0

    /// Where it listens, with the port the system chose when 0 was asked for.
    public private(set) var endpoint: Endpoint

    /// - Parameter inheritedSocket: a socket of that endpoint which listens already, passed by a service manager. It is
    ///   the manager's: its file stays when this listener stops, and clients wait in its queue until the next one starts.
    public init(
        _ endpoint: Endpoint, inheritedSocket: CInt? = nil, eventLoop: any EventLoop,
        settings: LinkSettings = LinkSettings()
    ) {
        self.endpoint = endpoint
        self.inheritedSocket = inheritedSocket
        self.eventLoop = eventLoop
        self.settings = settings
    }

    /// Starts to accept. A stale socket file is replaced: whoever owns the store beside it owns the path, so the caller
    /// opens its store first.
    ///
    /// The future fails with a `ServiceError` that names the endpoint.
    package func start(delegate: any LinkDelegate) -> EventLoopFuture<Void> {
        eventLoop.preconditionInEventLoop()
        let settings = settings
        let bound = NIOLoopBound((listener: self, delegate: delegate), eventLoop: eventLoop)
        let endpoint = endpoint
        let network = inheritedSocket.map { SocketNetwork(inheritedSocket: $0) } ?? settings.network
        let bind = network.listen(at: endpoint, on: eventLoop) { channel in
            channel.eventLoop.makeCompletedFuture {
                let (listener, delegate) = bound.value
                guard listener.connections < settings.connectionsMax else {
                    throw ServiceError(
                        .overloaded, "\(settings.connectionsMax) connections are open, the limit; try again later.")
                }
                listener.connections += 1
                channel.closeFuture.whenComplete { _ in bound.value.listener.connections -= 1 }
                let link = Link(channel: channel, side: .accepted, settings: settings, delegate: delegate)
                try channel.pipeline.syncOperations.addHandler(LinkHandler(link: link))
            }
        }
        return bind.flatMapErrorThrowing { error in
            throw ServiceError(
                .invalidConfiguration, "Cannot listen at \(endpoint) (\(error)); choose another --listen address.")
        }.map { channel in
            bound.value.listener.bound(to: channel)
        }
    }

    private func bound(to channel: any Channel) {
        self.channel = channel
        guard inheritedSocket == nil else { return }
        switch endpoint {
        case .unix(let path):
            // The directory's mode guards the instant before; see systemd/dcp-rank@.service.
            chmod(path, 0o600)
        case .tcp(let host, let port):
            if port == 0, let chosen = channel.localAddress?.port { endpoint = .tcp(host: host, port: chosen) }
        }
    }

    /// Stops to accept; links that are open stay.
    public func stop() {
        eventLoop.preconditionInEventLoop()
        channel?.close(promise: nil)
        channel = nil
        if case .unix(let path) = endpoint, inheritedSocket == nil { unlink(path) }
    }
}
