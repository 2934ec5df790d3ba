// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import NIOCore
internal import NIOPosix
internal import ServiceLifecycle

/// Stops the daemon at the end of standard input: the parent (`dcpctl up`, a test) holds the other end, so its daemons
/// do not outlive it even if it is killed.
struct Lifeline: Service {
    func run() async throws {
        let input = dup(STDIN_FILENO)
        guard input >= 0 else { return }
        let channel = try await NIOPipeBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .takingOwnershipOfDescriptor(input: input).get()
        await withGracefulShutdownHandler {
            // Nothing is ever written to it; it closes when the writer does.
            try? await channel.closeFuture.get()
        } onGracefulShutdown: {
            channel.close(promise: nil)
        }
    }
}
