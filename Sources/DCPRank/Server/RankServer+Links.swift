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
        return Hello(role: .rank, rank: configuration.rank, fingerprint: LayoutFingerprint(cluster))
    }

    package func link(_ link: Link, opened peer: Hello) {
        guard let rank = peer.rank else {
            incoming[ObjectIdentifier(link)] = (nextIncoming, link)
            nextIncoming += 1
            return
        }
        let replaced = peers.link(to: rank) != nil
        guard peers.opened(link, rank: rank) else {
            let error = ServiceError(
                .protocolViolation,
                "\(rank) is not of the head group of \(configuration.rank); it has no business here.")
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
        if let rank = link.peer?.rank {
            receive(frame, from: rank, over: link)
        } else {
            receive(frame, fromClient: link)
        }
    }

    package func link(_ link: Link, closed error: ServiceError) {
        if let connection = incoming.removeValue(forKey: ObjectIdentifier(link))?.ordinal {
            owners.closed(connection, at: now)
        }
        counters.receivedByteCount += link.receivedByteCount
        counters.sentByteCount += link.sentByteCount
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
        if hasDrained { finishCloseIfEmpty() }
    }

    private func receive(_ frame: Frame, from rank: RankIndex, over link: Link) {
        switch frame.message {
        case .query, .partial, .logSumExp, .corrected, .abort, .appended: break
        case .failure(let error):
            // Why it is about to close the link.
            link.close(error)
            return
        default:
            link.close(
                ServiceError(.protocolViolation, "\(rank) sent a \(frame.message.type) frame, which no rank sends."))
            return
        }
        guard frame.sender == rank else {
            link.close(ServiceError(.protocolViolation, "\(rank) sent a frame in another rank's name."))
            return
        }
        // A frame of another epoch belongs to a step that one side has given up already.
        guard frame.epoch == coordinator.epoch else { return }
        let member = cluster.contextRank(of: rank)
        if let execution = steps[frame.tag] {
            execution.receive(frame.message, from: member)
        } else if !steps.keep(frame, from: member, until: eventLoop.now + configuration.stepTimeoutMax) {
            let error = ServiceError(
                .overloaded,
                "\(configuration.rank) holds \(configuration.earlyByteCountMax) bytes of messages for steps that have "
                    + "not come; send fewer steps at once.", rank: configuration.rank)
            steps.refuse(frame.tag, error)
            abortInGroup(frame.tag, error)
        }
    }

    /// Tells the group the verdict on a step that is none here. A peer that cannot be told has lost its link, which
    /// fails its steps.
    func abortInGroup(_ tag: Tag, _ verdict: ServiceError) {
        for peer in peers.links {
            do throws(ServiceError) {
                try peer.send(
                    Frame(epoch: coordinator.epoch, tag: tag, sender: configuration.rank, message: .abort(verdict)))
            } catch {
                peer.close(error)
            }
        }
    }
}
