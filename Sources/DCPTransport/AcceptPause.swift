// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import NIOCore

/// Pauses accepting if the system has no descriptor for another connection.
///
/// NIO's own handler delays the next read, but the event loop still polls the socket, which stays readable, and spins.
final class AcceptPause: ChannelInboundHandler {
    typealias InboundIn = Any

    private static let pause = TimeAmount.milliseconds(200)
    private var isPaused = false

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        guard let failure = error as? IOError, [EMFILE, ENFILE, ENOBUFS, ENOMEM].contains(failure.errnoCode) else {
            return context.fireErrorCaught(error)
        }
        guard !isPaused else { return }
        isPaused = true
        let (bound, channel) = (NIOLoopBound(self, eventLoop: context.eventLoop), context.channel)
        channel.setOption(.autoRead, value: false).whenComplete { _ in
            channel.eventLoop.scheduleTask(in: Self.pause) {
                bound.value.isPaused = false
                _ = channel.setOption(.autoRead, value: true)
            }
        }
    }
}
