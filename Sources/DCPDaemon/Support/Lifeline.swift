internal import Glibc
internal import NIOCore
internal import NIOPosix
internal import ServiceLifecycle

/// Ends the daemon when standard input ends: the other end is held by whoever started it (`dcpctl up`, a test), so its
/// daemons do not outlive a parent that was killed.
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
