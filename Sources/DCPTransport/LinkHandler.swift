// SPDX-License-Identifier: Apache-2.0

internal import NIOCore
internal import NIOTLS

/// Ties a link to its channel: the last handler of the pipeline.
final class LinkHandler: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer

    private let link: Link

    init(link: Link) { self.link = link }

    func handlerAdded(context: ChannelHandlerContext) {
        if context.channel.isActive { link.becameActive() }
    }

    func channelActive(context: ChannelHandlerContext) { link.becameActive() }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if case .handshakeCompleted? = event as? TLSUserEvent { link.becameSecure() }
        context.fireUserInboundEventTriggered(event)
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        var bytes = unwrapInboundIn(data)
        link.received(&bytes)
    }

    func channelInactive(context: ChannelHandlerContext) { link.becameInactive() }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        link.failed(error)
        context.close(promise: nil)
    }
}
