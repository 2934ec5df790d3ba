package import DCPCore
package import DCPWire
internal import Glibc
public import NIOCore
internal import NIOPosix

/// Opens links to other daemons. Confined to one event loop, which all its links share.
public final class Dialer {
    private let eventLoop: any EventLoop
    private let settings: LinkSettings

    public init(eventLoop: any EventLoop, settings: LinkSettings = LinkSettings()) {
        self.eventLoop = eventLoop
        self.settings = settings
    }

    /// Connects and says hello. The delegate hears `opened` or `closed`; when the connection itself cannot be made,
    /// only `failed` is called, with `.unreachable`.
    package func dial(
        _ endpoint: Endpoint, hello: Hello, delegate: any LinkDelegate, failed: @escaping (ServiceError) -> Void
    ) {
        eventLoop.preconditionInEventLoop()
        let settings = settings
        let bound = NIOLoopBound((delegate: delegate, failed: failed), eventLoop: eventLoop)
        let connected = settings.network.connect(
            to: endpoint, on: eventLoop, timeout: settings.handshakeTimeout
        ) { channel in
            channel.eventLoop.makeCompletedFuture {
                let link = Link(
                    channel: channel, side: .dialled(hello: hello), settings: settings,
                    delegate: bound.value.delegate)
                try channel.pipeline.syncOperations.addHandler(LinkHandler(link: link))
            }
        }
        connected.whenFailure { error in
            bound.value.failed(
                ServiceError(
                    .unreachable, "Nobody answers at \(endpoint) (\(Dialer.describe(error))); is the daemon running?"))
        }
    }

    private static func describe(_ error: any Error) -> String {
        if let failure = error as? NIOConnectionError, let first = failure.connectionErrors.first {
            return describe(first.error)
        }
        if let failure = error as? IOError { return String(cString: strerror(failure.errnoCode)) }
        return "\(error)"
    }
}
