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
    /// only `failed` is called, with `.unreachable`, or with `.invalidConfiguration` for plain TCP beyond this machine.
    /// - Parameter role: what the certificate that answers has to be for, over TLS.
    package func dial(
        _ endpoint: Endpoint, expecting role: CertificateRole, hello: Hello, delegate: any LinkDelegate,
        failed: @escaping (ServiceError) -> Void
    ) {
        eventLoop.preconditionInEventLoop()
        let settings = settings
        let credentials = endpoint.isTCP ? settings.tls : nil
        if credentials == nil, !settings.network.isPrivate {
            do throws(ServiceError) { try endpoint.checkPlainDialAllowed() } catch { return failed(error) }
        }
        let bound = NIOLoopBound((delegate: delegate, failed: failed), eventLoop: eventLoop)
        let connected = settings.network.connect(
            to: endpoint, on: eventLoop, timeout: settings.handshakeTimeout
        ) { channel in
            channel.eventLoop.makeCompletedFuture {
                let tls = try credentials?.makeDialer()
                let link = Link(
                    channel: channel, side: .dialled(endpoint, expecting: role, hello: hello), settings: settings,
                    delegate: bound.value.delegate, tls: tls)
                if let tls { try channel.pipeline.syncOperations.addHandler(tls) }
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
