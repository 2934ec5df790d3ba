// SPDX-License-Identifier: Apache-2.0

package import DCPCore
package import DCPWire
package import NIOCore
internal import NIOPosix

/// Answers host report requests of one daemon. It inspects the host off the loop, because a network file system may
/// hang, and once at a time, so that requests cannot fill the pool's queue.
package final class HostReporter {
    private let look: (@Sendable () -> HostReport)?
    private let eventLoop: any EventLoop
    private var isLooking = false

    /// - Parameter look: runs on a separate thread and may block; nil without a host, as in a simulation.
    package init(_ look: (@Sendable () -> HostReport)?, eventLoop: any EventLoop) {
        self.look = look
        self.eventLoop = eventLoop
    }

    /// On the loop; `answer` is called there, once.
    package func report(_ answer: @escaping (Result<HostReport, ServiceError>) -> Void) {
        eventLoop.preconditionInEventLoop()
        guard let look else {
            return answer(.failure(ServiceError(.invalidRequest, "This daemon does not inspect its host.")))
        }
        guard !isLooking else {
            return answer(
                .failure(
                    ServiceError(
                        .overloaded,
                        "This daemon is already inspecting its host for another client; try again.")))
        }
        isLooking = true
        let bound = NIOLoopBound((self, answer), eventLoop: eventLoop)
        NIOThreadPool.singleton.runIfActive(eventLoop: eventLoop, look).whenComplete { result in
            let (reporter, answer) = bound.value
            reporter.isLooking = false
            answer(result.mapError { ServiceError(.shuttingDown, "The daemon is stopping: \($0).") })
        }
    }
}
