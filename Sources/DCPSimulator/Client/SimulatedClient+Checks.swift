// SPDX-License-Identifier: Apache-2.0

internal import DCPClient
internal import DCPCore
internal import DCPWire

/// What a client notices: answers that are missing, refusals that nothing explains, and lengths that cannot be.
extension SimulatedClient {
    /// A refusal that no fault explains.
    func unexpected(_ error: ServiceError, _ what: String) {
        simulation.violate(.wrongRefusal, "\(name), \(what): \(error)")
        isFinished = true
    }

    /// When all faults are over every request is answered in time, and no rank waits in vain for another.
    func noteTimeout(_ result: Result<Frame, ServiceError>, _ message: Message) {
        guard case .failure(let error) = result, error.code == .deadlineExceeded else { return }
        simulation.timedOut(name, "\(message.type)")
    }

    /// Whether a client that knows nothing of a sequence but its lengths can go on there: with the same token in each layer.
    func check(_ progress: SequenceProgress, of sequence: ModelSequence) -> Bool {
        guard isNew, Set(progress.layerLengths).count > 1 else { return true }
        simulation.violate(
            .layersApart, "\(name) has resumed \(sequence.name), whose layers end at \(progress.layerLengths)")
        return false
    }

    /// Whether what the ranks hold is what they may hold.
    func check(_ statuses: Statuses) -> Bool {
        for sequence in sequences {
            for rank in cluster.allRanks {
                guard let status = statuses[rank]![sequence.record!.id] else {
                    simulation.violate(.lostCommit, "\(rank) has no \(sequence.name), which is open")
                    return false
                }
                world.trace.note(
                    "\(name): \(rank) has \(sequence.name) committed \(status.committedLength), layers "
                        + "\(status.layerLengths)")
                guard status.committedLength >= sequence.floor else {
                    simulation.violate(
                        .lostCommit,
                        "\(rank) has \(status.committedLength) committed tokens of \(sequence.name), of which "
                            + "\(sequence.floor) were acknowledged")
                    return false
                }
                guard status.committedLength <= sequence.askedLength else {
                    simulation.violate(
                        .inventedCommit,
                        "\(rank) has \(status.committedLength) committed tokens of \(sequence.name), of which "
                            + "\(sequence.askedLength) were asked to be")
                    return false
                }
                for (layer, length) in status.layerLengths.enumerated()
                where (length > sequence.layers[layer].count && !sequence.mayBeLonger)
                    || length < status.committedLength
                {
                    simulation.violate(
                        .appliedTwice,
                        "\(rank) has \(length) tokens in layer \(layer) of \(sequence.name), of which "
                            + "\(sequence.layers[layer].count) were sent and \(status.committedLength) are committed")
                    return false
                }
            }
        }
        return true
    }
}
