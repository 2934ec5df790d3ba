// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPOracle
internal import DCPWire

/// What a client does when its script is done.
extension SimulatedClient {
    /// One more token for every sequence, whose attention reads all that was kept, and a commit of all.
    func verify() {
        guard simulation.isSettled else {
            // Until the faults stop there is always something to do.
            doing = "waiting for the faults and what follows from them to end"
            let turn = turn
            world.after(UInt64(50_000_000), process, "wait") { [self] in
                if turn == self.turn { next() }
            }
            return
        }
        guard isSettled else {
            // From here on a request that is not answered in time breaks a rule.
            isSettled = true
            remaining = 3
            return sequences.isEmpty ? finish() : next()
        }
        guard !sequences.isEmpty else { return finish() }
        doing = "verifying"
        let all = sequences.map { ($0, $0.layers.map(\.count).max()! + 1) }
        verify(all, layer: 0)
    }

    private func verify(_ all: [(ModelSequence, Int)], layer: Int) {
        guard layer < simulation.knobs.model.layers else {
            for sequence in sequences { sequence.askedLength = max(sequence.askedLength, sequence.length) }
            return askRanks(
                Commit(sequences.map { part($0.length, of: $0) }), timeout: simulation.requestTimeout
            ) { [self] result in
                switch result {
                case .success: match { [self] in closeTogether() }
                case .failure(let error): failed(error)
                }
            }
        }
        let step = SentStep(
            all.map { ($0.0, $0.1 - $0.0.layers[layer].count) }, claims: claims, layer: layer,
            tag: takeTag(layer: layer),
            model: model!, cluster: cluster, mode: .gather, timeout: simulation.stepTimeout,
            random: &world.random)
        send(step) { [self] in verify(all, layer: layer + 1) }
    }

    /// Closes some of its sequences together, at times a parent with its forks: then their shared blocks have no owner.
    private func closeTogether() {
        doing = "closing"
        let closing = sequences.filter { _ in world.chance(0.7) }
        sequences.removeAll { sequence in closing.contains { $0 === sequence } }
        var open = closing.count
        guard open > 0 else { return finish() }
        if open > 1 { simulation.count("closed together") }
        for sequence in closing {
            close(sequence, claims[sequence.name]!) { [self] in
                open -= 1
                if open == 0 { finish() }
            }
        }
    }

    private func close(_ sequence: ModelSequence, _ claim: Claim, done: @escaping () -> Void) {
        askToClose(AnyItem(CloseSequence(name: sequence.name, claim: claim)), sequence, done: done) { _ in done() }
    }

    /// Repeats a request on the way to a close, with a new claim, until it is answered.
    private func askToClose(
        _ item: AnyItem, _ sequence: ModelSequence, done: @escaping () -> Void,
        answered: @escaping (AnyItem.Answer) -> Void
    ) {
        let turn = turn
        askCoordinator(item, timeout: simulation.requestTimeout) { [self] result in
            switch result {
            case .success(let answer): answered(answer)
            // A request that was not answered had closed it.
            case .failure(let error) where error.code == .unknownSequence: done()
            case .failure(let error)
            where error.isRetryable || simulation.isAwaitingRestart(error) || error.code == .claimed && hasCrashed:
                world.after(UInt64(50_000_000), process, "close again") { [self] in
                    guard turn == self.turn else { return }
                    let claim = AnyItem(ClaimSequence(sequence.record!.id, held: .none))
                    askToClose(claim, sequence, done: done) { [self] in
                        close(sequence, $0.answer(to: ClaimSequence.self), done: done)
                    }
                }
            case .failure(let error): unexpected(error, "closing \(sequence.name)")
            }
        }
    }
}
