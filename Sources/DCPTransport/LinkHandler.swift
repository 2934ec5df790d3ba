internal import NIOCore

/// Ties a link to its channel: the last handler of the pipeline.
final class LinkHandler: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer

    private let link: Link
    private var failure: (any Error)?

    init(link: Link) { self.link = link }

    func handlerAdded(context: ChannelHandlerContext) {
        if context.channel.isActive { link.becameActive() }
    }

    func channelActive(context: ChannelHandlerContext) { link.becameActive() }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        var bytes = unwrapInboundIn(data)
        link.received(&bytes)
    }

    func channelInactive(context: ChannelHandlerContext) { link.becameInactive(failure) }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        failure = error
        context.close(promise: nil)
    }
}
