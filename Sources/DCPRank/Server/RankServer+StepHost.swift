// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPObservability
internal import DCPTransport
internal import DCPWire
internal import NIOCore

/// What steps tell their rank. What they share, `RankServer+Steps.swift` has.
extension RankServer: StepHost {
    func send(_ message: Message, of tag: Tag, in epoch: Epoch, to member: Int) throws(ServiceError) {
        try port.send(message, of: tag, in: epoch, to: member)
    }

    func answer(_ client: Link?, _ tag: Tag, _ message: Message) { answer(client, tag, message, done: nil) }

    /// - Parameter done: called once, when the answer holds no memory any more: it was written, or never will be.
    func answer(_ client: Link?, _ tag: Tag, _ message: Message, done: (() -> Void)?) {
        guard let client else {
            done?()
            return
        }
        var message = message
        if case .failure(var error) = message {
            if error.rank == nil { error.rank = configuration.rank }
            message = .failure(error)
        }
        do throws(ServiceError) {
            try client.send(
                Frame(epoch: coordinator.epoch, tag: tag, sender: configuration.rank, message: message), done: done)
        } catch {
            done?()
            switch error.code {
            // A client that does not read would wait for an answer that cannot be sent: it hears of it this way.
            case .overloaded: client.close(error)
            case .invalidRequest: answer(client, tag, .failure(error))
            default: break
            }
        }
    }

    func completed(_ execution: StepExecution, _ times: StepTimes) {
        counters.completed(execution, times, at: eventLoop.now)
    }

    func aborted(_ tag: Tag, _ request: StepRequest, _ error: ServiceError, after time: TimeAmount?) {
        counters.stepsAborted.count(error.code)
        observe(.stepAborted(tag, request.entries.map(\.sequence), error, after: time))
    }

    func finished(_ execution: StepExecution) {
        guard steps[execution.tag] === execution else { return }
        steps.remove(execution.tag)
        runReady()
        finishDrainIfEmpty()
    }
}
