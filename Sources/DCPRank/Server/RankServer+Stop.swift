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
        if let drain = stopping.drain { return drain.futureResult }
        let drained = stopping.beginDrain(on: eventLoop)
        listener.stop()
        verification?.stop()
        copies.endAll()
        coordinator.refuseSteps(ServiceError(.shuttingDown, "\(configuration.rank) is stopping; try again later."))
        let bound = NIOLoopBound(self, eventLoop: eventLoop)
        let timeout = drainTimeout ?? configuration.drainTimeout
        let deadline = eventLoop.scheduleTask(in: timeout) { bound.value.abandonSteps() }
        drained.whenSuccess {
            deadline.cancel()
            bound.value.closeLinks()
        }
        finishDrainIfEmpty()
        // The last answers are written before the daemon ends; a peer that does not read them is not waited for long.
        let closed = stopping.close.futureResult
        let flushDeadline = configuration.link.handshakeTimeout
        return drained.flatMap {
            let server = bound.value
            let giveUp = server.eventLoop.scheduleTask(in: flushDeadline) { bound.value.stopping.close.succeed() }
            return closed.always { _ in giveUp.cancel() }
        }
    }

    private func abandonSteps() {
        let error = ServiceError(
            .shuttingDown, "\(configuration.rank) stopped before the step ended; try again later.")
        for execution in steps.inOrder({ _ in true }) { execution.deliver(.failed(error)) }
        stopping.drain?.succeed()
    }

    func finishDrainIfEmpty() {
        guard steps.executions.isEmpty, work.commitsInFlight == 0 else { return }
        stopping.drain?.succeed()
    }

    private func closeLinks() {
        stopping.beginFlush()
        upkeep.stop()
        coordinator.stop()
        peers.stop()
        for link in clients.inOrder {
            link.closeWhenFlushed(ServiceError(.shuttingDown, "\(configuration.rank) has stopped."))
        }
        finishCloseIfEmpty()
    }

    func finishCloseIfEmpty() {
        guard clients.isEmpty, peers.links.isEmpty else { return }
        stopping.close.succeed()
    }
}
