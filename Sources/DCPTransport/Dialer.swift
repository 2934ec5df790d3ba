// SPDX-License-Identifier: Apache-2.0

package import DCPCore
package import DCPWire
internal import Glibc
public import NIOCore

/// Opens links to other daemons. Confined to one event loop, which all its links share.
public final class Dialer {
    private let eventLoop: any EventLoop
    private let settings: LinkSettings

    public init(eventLoop: any EventLoop, settings: LinkSettings = LinkSettings()) {
        self.eventLoop = eventLoop
        self.settings = settings
    }

    /// Connects and sends a hello. The delegate gets `opened` or `closed`; if the connection cannot be made, only
    /// `failed` is called, with `.unreachable`, or with `.invalidConfiguration` for plain TCP to another machine.
    /// - Parameter role: the role that the peer's certificate must have, over TLS.
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
                    delegate: bound.value.delegate, passage: settings.passage(at: endpoint), tls: tls)
                if let tls { try channel.pipeline.syncOperations.addHandler(tls) }
                try channel.pipeline.syncOperations.addHandler(LinkHandler(link: link))
            }
        }
        connected.whenFailure { error in
            let reason = NetworkFailure.reason(of: error)
            guard let number = NetworkFailure.number(of: error), [EACCES, EPERM].contains(number) else {
                return bound.value.failed(
                    ServiceError(.unreachable, "No daemon answers at \(endpoint) (\(reason)); is it running?"))
            }
            bound.value.failed(
                ServiceError(
                    .accessDenied,
                    "uid \(geteuid()) may not connect to \(endpoint) (\(reason)); run as a user whom the permissions "
                        + "of the socket and its directory and the daemon's allowed-uids or allowed-gids admit."))
        }
    }
}
