// SPDX-License-Identifier: Apache-2.0

package import DCPCore
internal import DCPObservability
package import DCPTransport
package import DCPWire
internal import NIOCore

/// Links come, bring frames and go.
extension RankServer: LinkDelegate {
    package func link(_ link: Link, accepts hello: Hello) throws(ServiceError) -> Hello {
        try hello.check(against: LayoutFingerprint(cluster))
        if case .coordinator = hello.role {
            throw ServiceError(.protocolViolation, "The coordinator does not dial ranks; ranks dial it.")
        }
        return self.hello
    }

    package func link(_ link: Link, opened peer: Hello) {
        guard let rank = peer.rank else {
            clients.opened(link)
            return
        }
        let replaced = peers.link(to: rank) != nil
        guard peers.opened(link, rank: rank) else {
            let error = ServiceError(
                .protocolViolation,
                "\(rank) is not in the head group of \(configuration.rank) and must not connect to it.")
            link.close(error)
            return
        }
        observe(.peerConnected(rank))
        if replaced {
            abortExchanges(
                ServiceError(
                    .rankUnavailable,
                    "\(rank) connected to \(configuration.rank) again while the step was in flight; try again.",
                    rank: rank))
        }
        coordinator.linksChanged()
    }

    package func link(_ link: Link, received frame: Frame) {
        if let rank = link.peerRank {
            receive(frame, from: rank, over: link)
        } else {
            receive(frame, fromClient: link)
        }
    }

    package func link(_ link: Link, sharesMemory result: Result<Void, ServiceError>) {
        guard let rank = link.peer?.rank else { return }
        switch result {
        case .success: observe(.memoryShared(rank))
        case .failure(let error): observe(.memoryNotShared(rank, error))
        }
    }

    package func link(_ link: Link, closed error: ServiceError) {
        if let connection = clients.closed(link) { owners.closed(connection, at: now) }
        counters.receivedByteCount += link.receivedByteCount
        counters.sentByteCount += link.sentByteCount
        counters.memoryTraffic += link.memoryTraffic
        if let cause = link.refusal {
            if cause.concernsFrame { counters.framesRefused.count(error.code) }
            observe(.refused(peer: link.remoteAddress, cause, error))
        }
        if let rank = peers.closed(link) {
            counters.peersLost += 1
            observe(.peerLost(rank, error))
            let lost = ServiceError(
                .rankUnavailable,
                "\(configuration.rank) lost its connection to \(rank): \(error.message) Try again when \(rank) is back.",
                rank: rank)
            abortExchanges(lost)
        }
        for execution in steps.inOrder({ $0.isClient(link) }) {
            execution.deliver(.failed(ServiceError(.stepAborted, "The client closed its connection.")))
        }
        if stopping.isFlushing { finishCloseIfEmpty() }
    }

    private func receive(_ frame: Frame, from rank: RankIndex, over link: Link) {
        let member: Int
        do throws(ServiceError) { member = try port.sender(of: frame, over: rank) } catch { return link.close(error) }
        // A frame of another epoch belongs to a step that one side has given up already.
        guard frame.epoch == coordinator.epoch else { return }
        if let execution = steps[frame.tag] {
            execution.receive(frame.message, from: member)
        } else if !steps.keep(frame, from: member, until: eventLoop.now + configuration.stepTimeoutMax) {
            let error = ServiceError(
                .overloaded,
                "\(configuration.rank) holds \(configuration.earlyByteCountMax) bytes of messages for steps that "
                    + "have not arrived yet; send fewer steps at once.", rank: configuration.rank)
            steps.refuse(frame.tag, error)
            port.abort(frame.tag, in: coordinator.epoch, error)
        }
    }
}
