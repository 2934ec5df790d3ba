// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPWire
internal import NIOCore

/// The first handler on an accepted connection until its hello is accepted: it counts the bytes, and distinguishes
/// plain bytes from TLS by the first one. Then it is removed.
final class GreetingGuard: ChannelInboundHandler, RemovableChannelHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private let link: Link
    private let expectsTLS: Bool
    private let byteCountMax: Int
    private var byteCount = 0

    /// RFC 8446, 5.1: the content type of a handshake record, with which TLS begins.
    private static let handshakeRecord: UInt8 = 22

    init(link: Link, expectsTLS: Bool, byteCountMax: Int) {
        self.link = link
        self.expectsTLS = expectsTLS
        self.byteCountMax = byteCountMax
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        guard link.isGreeting else {
            // From now on there is nothing to guard.
            context.fireChannelRead(data)
            return context.pipeline.syncOperations.removeHandler(context: context, promise: nil)
        }
        let bytes = unwrapInboundIn(data)
        let isFirst = byteCount == 0
        byteCount += bytes.readableBytes
        if expectsTLS, isFirst, let first = bytes.getInteger(at: bytes.readerIndex, as: UInt8.self),
            first != Self.handshakeRecord
        {
            return refusePlainText(bytes, context)
        }
        guard byteCount <= byteCountMax else {
            return link.refuse(
                Refusal(
                    .oversizedHello,
                    ServiceError(
                        .protocolViolation,
                        "\(byteCount) bytes came before a hello was accepted, but the limit is \(byteCountMax); "
                            + "handshake-limit raises it.")))
        }
        context.fireChannelRead(data)
    }

    /// A peer that is not configured for TLS is answered in the plain protocol; its bytes are not examined further.
    private func refusePlainText(_ bytes: ByteBuffer, _ context: ChannelHandlerContext) {
        let error = ServiceError(
            .accessDenied,
            "This port accepts only TLS with certificates; give tls-ca, tls-certificate and tls-key (dcpctl certs).")
        if bytes.getInteger(at: bytes.readerIndex, endianness: .little, as: UInt32.self) == FrameHeader.magic {
            let parts = Frame.greeting(.failure(error)).encode()
            context.writeAndFlush(wrapOutboundOut(parts[0]), promise: nil)
        }
        link.refuse(Refusal(.plainText, error))
    }
}
