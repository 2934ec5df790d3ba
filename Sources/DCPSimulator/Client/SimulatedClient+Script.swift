// SPDX-License-Identifier: Apache-2.0

internal import DCPClient
internal import DCPCore
internal import DCPOracle
internal import DCPWire
internal import NIOCore

/// What a client does when nothing is wrong.
extension SimulatedClient {
    private static var lengthMax: Int { 150 }

    func next() {
        guard !isFinished else { return }
        if mustCommit, !sequences.isEmpty {
            mustCommit = false
            return commit(sequences)
        }
        guard remaining > 0 else { return verify() }
        remaining -= 1
        if let long = sequences.first(where: { $0.length > Self.lengthMax }) {
            return truncate(long, to: world.draw(0...min(long.floor, Self.lengthMax / 2)))
        }
        if world.chance(simulation.knobs.clientCrashes / 4) { return crash() }
        switch world.draw(0...99) {
        case 0..<63: steps()
        case 63..<66: match { [self] in next() }
        case 66..<86: commit(world.chance(0.8) ? sequences : [sequences[0]])
        case 86..<90:
            let sequence = sequences[world.draw(0...sequences.count - 1)]
            truncate(sequence, to: world.draw(0...sequence.floor))
        case 90..<94 where sequences.count < 3: fork(sequences[0])
        case 94..<96 where sequences.count > 1: close(sequences.count - 1)
        case 96: stepBeyondLimits()
        case 97..<99: queries()
        default: steps()
        }
    }

    // MARK: Steps

    /// New tokens through all layers, one layer after the other or all at once, one chunk or two behind each other.
    private func steps() {
        doing = "sending steps"
        let some = sequences.filter { _ in sequences.count == 1 || world.chance(0.6) }
        let chosen = some.isEmpty ? [sequences[0]] : some
        let mode: StepRequest.QueryMode = world.chance(0.3) ? .replicate : .gather
        let isBurst = world.chance(0.4)
        let chunks = isBurst ? world.draw(1...2) : 1
        // To one length: after a failure some layers have more than others.
        var target = chosen.map { $0.layers.map(\.count).max()! }.max()!
        var sent: [() -> SentStep] = []
        // Every layer has its tokens by the last one's step, when that is sent behind the others' answers.
        let commits = !isBurst && world.chance(0.3)
        for _ in 0..<chunks {
            // Decode, what speculative decoding proposes, and prefill, which other clients' decode steps meet on the threads.
            target += world.chance(0.5) ? 1 : world.chance(0.8) ? world.draw(2...24) : world.draw(33...70)
            let end = target
            for layer in simulation.knobs.model.layerIndices {
                let form: StepRequest.QueryMode = world.chance(0.15) ? .absent : mode
                if form == .absent { simulation.count("steps without queries") }
                simulation.count(stepOver: simulation.knobs.model[layer])
                let isLast = layer == simulation.knobs.model.layers - 1
                sent.append { [self] in
                    var step = SentStep(
                        chosen.map { ($0, end - $0.layers[layer].count) }, claims: claims, layer: layer,
                        tag: takeTag(layer: layer),
                        model: model!, cluster: cluster, mode: form, timeout: simulation.stepTimeout,
                        random: &world.random)
                    if commits, isLast {
                        simulation.count("steps that commit")
                        step.commit(chosen.map { part(end, of: $0) })
                        for sequence in chosen { sequence.askedLength = max(sequence.askedLength, end) }
                    }
                    return step
                }
            }
        }
        // Of tokens that are on their way, when they are sent as a burst.
        if world.chance(0.3) { sent.append { [self] in makeQueries(of: chosen, mode) } }
        if isBurst {
            var open = sent.count
            for (index, make) in sent.enumerated() {
                send(make(), isBehind: index >= simulation.knobs.model.layers) { [self] in
                    open -= 1
                    if open == 0 { next() }
                }
            }
            // Its ranks learn of it by the end of the connection, in the middle of the steps.
            mayCrash()
        } else {
            sendInOrder(sent)
        }
    }

    /// Queries at positions that are there.
    private func queries() {
        doing = "sending queries"
        let chosen = sequences.filter { !$0.layers.contains { $0.count == 0 } }
        guard !chosen.isEmpty else { return next() }
        sendInOrder([{ [self] in makeQueries(of: chosen, world.chance(0.3) ? .replicate : .gather) }])
    }

    /// At the end of a layer or anywhere, in all of some sequences that have tokens.
    private func makeQueries(of chosen: [ModelSequence], _ mode: StepRequest.QueryMode) -> SentStep {
        let layer = world.draw(0...simulation.knobs.model.layers - 1)
        simulation.count("steps of queries alone")
        let entries = chosen.map { sequence in
            let length = sequence.layers[layer].count
            let count = min(length, world.chance(0.5) ? 1 : world.draw(2...24))
            let last = length - count
            return (sequence: sequence, position: world.chance(0.5) ? last : world.draw(0...last), count: count)
        }
        return SentStep(
            queriesAt: entries, claims: claims, layer: layer, tag: takeTag(layer: layer), model: model!,
            cluster: cluster, mode: mode, timeout: simulation.stepTimeout, random: &world.random)
    }

    /// Crashes soon, in the middle of what it has just begun, or does not.
    private func mayCrash() {
        guard world.chance(simulation.knobs.clientCrashes) else { return }
        let turn = turn
        world.after(world.delay(.zero ... .milliseconds(20)), process, "client crash") { [self] in
            if turn == self.turn, !isFinished { crash() }
        }
    }

    private func sendInOrder(_ rest: [() -> SentStep]) {
        guard let make = rest.first else { return next() }
        let step = make()
        send(step) { [self] in
            guard world.chance(0.06) else { return sendInOrder(Array(rest.dropFirst())) }
            // Sent again: nothing is appended, and the answer is the same.
            var tag = step.tag
            tag.attempt += 1
            send(step, as: tag) { [self] in sendInOrder(Array(rest.dropFirst())) }
        }
    }

    /// - Parameter isBehind: whether an earlier step of its layer has not been answered yet.
    func send(
        _ step: SentStep, as tag: Tag? = nil, isBehind: Bool = false, done: @escaping () -> Void
    ) {
        let losses = losses
        askRanks(
            step.requests, tag: tag ?? step.tag,
            timeout: simulation.stepTimeout + .seconds(2)
        ) { [self] rank, frame, result in
            if let fault = step.fault(in: result, from: rank) {
                simulation.violate(.wrongAnswer, "\(name): \(rank) answered \(frame.tag) wrongly: \(fault)")
            }
        } done: { [self] result in
            switch result {
            case .success:
                succeeded()
                acknowledge(
                    step.commits.compactMap { part in
                        sequences.first { $0.record?.id == part.sequence }.map { ($0, part.length) }
                    }, since: losses)
                done()
            // The step before it was refused, and its verdict is still on the way.
            case .failure(let error) where isBehind && error.code == .positionMismatch: recover(after: error)
            case .failure(let error): failed(error)
            }
        }
    }

    private func succeeded() { outages.succeeded(at: .nanoseconds(Int64(world.now))) }

    // MARK: Commits

    func length(_ length: Int, of sequence: ModelSequence) -> SequenceLength {
        SequenceLength(sequence: sequence.record!.id, length: length, claim: claims[sequence.name]!)
    }

    /// With the ids that it adds, or with all.
    func part(_ length: Int, of sequence: ModelSequence) -> SequenceCommit {
        let stated = self.length(length, of: sequence)
        let start = length % 2 == 0 ? 0 : min(sequence.floor, length)
        return SequenceCommit(
            sequence: stated.sequence, length: length,
            tokens: sequence.hasIDs ? TokenIDs(start: start, ids: Array(sequence.ids[start..<length])) : nil,
            claim: stated.claim)
    }

    private func commit(_ some: [ModelSequence]) {
        doing = "committing"
        let lengths = some.map { sequence -> (ModelSequence, Int) in
            let length = sequence.length
            return (sequence, world.chance(0.85) ? length : world.draw(min(sequence.floor, length)...length))
        }
        for (sequence, length) in lengths { sequence.askedLength = max(sequence.askedLength, length) }
        let losses = losses
        askRanks(
            Commit(lengths.map { part($0.1, of: $0.0) }), timeout: simulation.requestTimeout
        ) { [self] result in
            switch result {
            case .success:
                succeeded()
                acknowledge(lengths, since: losses)
                next()
            case .failure(let error) where error.code == .positionMismatch:
                simulation.violate(.answeredNotInPlace, "\(name) commits what was answered: \(error)")
            case .failure(let error): failed(error)
            }
        }
    }

    /// - Parameter losses: of ranks, when the commit was sent. One that answered and then lost its power has promised nothing, if
    ///   its disk lags behind.
    private func acknowledge(_ lengths: [(ModelSequence, Int)], since losses: Int) {
        for (sequence, length) in lengths where losses == self.losses {
            sequence.acknowledge(length, at: world.now)
            world.trace.note("\(name): \(length) tokens of \(sequence.name) are committed")
        }
    }

    /// At times requests a commit of tokens that were never sent, while another sequence is changed: every rank must
    /// refuse it, whatever happens to the other. The answers are ignored.
    func mayOvercommit(beside changed: ModelSequence?) {
        // One that it has claimed: a fork may just have been made.
        guard let changed, world.chance(0.4),
            let sequence = sequences.first(where: { $0 !== changed && claims[$0.name] != nil })
        else { return }
        // About as long as the other request is on its way to the ranks.
        let delay = world.delay(
            .zero...simulation.knobs.network.latency.upperBound * 4 + simulation.knobs.diskLatencyMax * 2)
        let turn = turn
        world.after(delay, process, "overcommit") { [self] in
            if turn == self.turn, !isFinished { overcommit(sequence) }
        }
    }

    private func overcommit(_ sequence: ModelSequence) {
        let sent = sequence.layers.map(\.count).max()!
        // More than it will have when this arrives late.
        let length = sent + 10 * Self.lengthMax
        simulation.count("overcommits")
        askRanks(
            Commit([self.length(length, of: sequence)]), timeout: simulation.requestTimeout
        ) { [self] rank, _, _ in
            simulation.violate(
                .lostCommit, "\(rank) acknowledged \(length) tokens of \(sequence.name), of which \(sent) were sent")
        } done: { _ in
        }
    }

    // MARK: The directory

    func truncate(_ sequence: ModelSequence, to length: Int) {
        sequence.promiseAtMost(length)
        unanswered = DirectoryWish(
            of: sequence, request: { TruncateSequence(name: sequence.name, length: length, claim: $0) },
            done: { [self] _ in
                for layer in sequence.layers.indices { sequence.cut(layer, to: length) }
                sequence.askedLength = length
                recover(after: nil)
            },
            refused: { [self] error in
                switch error.code {
                case .storeDamaged where simulation.hasDamage: truncate(sequence, to: 0)
                // A rank has less than the others by now; the lengths tell.
                case .invalidRequest: recover(after: error)
                default: unexpected(error, "truncating \(sequence.name) to \(length)")
                }
            })
        unanswered!.isForgettable = true
        askDirectory()
        mayCrash()
    }

    private func close(_ index: Int) {
        let sequence = sequences.remove(at: index)
        unanswered = DirectoryWish(
            of: sequence, request: { CloseSequence(name: sequence.name, claim: $0) },
            done: { [self] _ in recover(after: nil) },
            refused: { [self] error in
                // An earlier request that was not answered had closed it.
                if error.code == .unknownSequence { return recover(after: nil) }
                unexpected(error, "closing \(sequence.name)")
            })
        askDirectory()
    }
}

extension ModelDescription {
    fileprivate var layerIndices: Range<Int> { 0..<layers }
}
