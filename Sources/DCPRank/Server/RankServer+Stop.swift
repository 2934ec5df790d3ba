// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPTransport
public import NIOCore

/// The end of a rank: `serving → draining → flushing → stopped`.
extension RankServer {
    /// Stops cleanly: refuses new steps, lets those in flight end within the drain timeout, closes all links.
    /// The store is the caller's to close afterwards.
    ///
    /// - Parameter drainTimeout: the configuration's unless given.
    public func stop(drainTimeout: TimeAmount? = nil) -> EventLoopFuture<Void> {
        eventLoop.preconditionInEventLoop()
        if let drained { return drained.futureResult }
        let promise = eventLoop.makePromise(of: Void.self)
        drained = promise
        listener.stop()
        verification?.stop()
        copies.endAll()
        coordinator.refuseSteps(ServiceError(.shuttingDown, "\(configuration.rank) is stopping; try again later."))
        let bound = NIOLoopBound(self, eventLoop: eventLoop)
        let timeout = drainTimeout ?? configuration.drainTimeout
        let deadline = eventLoop.scheduleTask(in: timeout) { bound.value.abandonSteps() }
        promise.futureResult.whenSuccess {
            deadline.cancel()
            bound.value.closeLinks()
        }
        finishDrainIfEmpty()
        // The last answers are written before the daemon ends; a peer that does not read them is not waited for long.
        let closed = allClosed.futureResult
        let flushDeadline = configuration.link.handshakeTimeout
        return promise.futureResult.flatMap {
            let server = bound.value
            let giveUp = server.eventLoop.scheduleTask(in: flushDeadline) { bound.value.allClosed.succeed() }
            return closed.always { _ in giveUp.cancel() }
        }
    }

    private func abandonSteps() {
        let error = ServiceError(
            .shuttingDown, "\(configuration.rank) stopped before the step ended; try again later.")
        for execution in steps.inOrder({ _ in true }) { execution.deliver(.failed(error)) }
        drained?.succeed()
    }

    func finishDrainIfEmpty() {
        guard steps.executions.isEmpty, commitsInFlight == 0 else { return }
        drained?.succeed()
    }

    private func closeLinks() {
        hasDrained = true
        earlyTimer?.cancel()
        coordinator.stop()
        peers.stop()
        for (_, link) in incoming.values.sorted(by: { $0.ordinal < $1.ordinal }) {
            link.closeWhenFlushed(ServiceError(.shuttingDown, "\(configuration.rank) has stopped."))
        }
        finishCloseIfEmpty()
    }

    func finishCloseIfEmpty() {
        guard incoming.isEmpty, peers.links.isEmpty else { return }
        allClosed.succeed()
    }
}
