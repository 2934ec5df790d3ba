// SPDX-License-Identifier: Apache-2.0

internal import DCPClient
internal import DCPCore
internal import DCPWire

/// What a client does after a failure: `Outages` decides what to retry and `Resumption` what to rewind, as in
/// `Cluster`.
extension SimulatedClient {
    /// Forgets the connections, as a client that is started again would; its sequences live on in the ranks.
    func crash() {
        world.trace.note("\(name) drops its connections and is another client from here on")
        turn += 1
        becomeAnother()
        recover(after: nil)
    }

    /// Begins again; `error` is why.
    func recover(after error: ServiceError?) {
        turn += 1
        doing = "recovering after \(error.map { "\($0)" } ?? "nothing")"
        if let error { world.trace.note("\(name) recovers after \(error)") }
        let turn = turn
        var (pause, needsTopology) = (UInt64(0), true)
        if let error {
            switch outages.failed(error, at: .nanoseconds(Int64(world.now))) {
            case .retry(let after, let needs, _): (pause, needsTopology) = (after.nanoseconds, needs)
            // A supervisor would restart the client.
            case .giveUp: pause = world.delay(.milliseconds(5) ... .milliseconds(300))
            }
        }
        world.after(pause, process, "recover") { [self] in
            guard turn == self.turn, !isFinished else { return }
            if needsTopology || topology == nil { askTopology() } else { askDirectory() }
        }
    }

    private func askTopology() {
        askCoordinator(
            GetTopology(waitMilliseconds: 1000), timeout: .seconds(1) + simulation.requestTimeout
        ) { [self] result in
            switch result {
            case .success(let topology) where topology.phase == .ready:
                self.topology = topology
                askDirectory()
            case .success(let topology): recover(after: ServiceError(.notReady, topology.reason))
            case .failure(let error): recover(after: error)
            }
        }
    }

    /// Repeats what the directory has not answered; then resumes.
    func askDirectory() {
        guard let wish = unanswered else { return claim(sequences) }
        if let sequence = wish.claimed {
            askDirectory(AnyItem(ClaimSequence(sequence.record!.id, held: .none)), for: wish) { [self] in
                ask(wish, $0.answer(to: ClaimSequence.self))
            }
        } else {
            ask(wish, .none)
        }
    }

    private func ask(_ wish: DirectoryWish, _ claim: Claim) {
        unanswered?.isRepeated = true
        askDirectory(wish.request(claim), for: wish, recorded: wish.isRepeated ? {} : wish.recorded) { [self] reply in
            unanswered = nil
            wish.done(reply)
        }
        for (request, recorded) in wish.behind {
            let message = request(claim).message
            coordinator?.request(
                Frame(epoch: topology?.epoch ?? .none, tag: takeTag(), message: message),
                timeout: simulation.requestTimeout
            ) { [self] result in
                noteTimeout(result, message)
                if !wish.isRepeated, case .failure(let error) = result, error.code == .rankUnavailable { recorded() }
            }
        }
        mayOvercommit(beside: wish.claimed)
    }

    private func askDirectory(
        _ item: AnyItem, for wish: DirectoryWish, recorded: @escaping () -> Void = {},
        done: @escaping (AnyItem.Answer) -> Void
    ) {
        doing = "asking the directory for \(item)"
        askCoordinator(item, timeout: simulation.requestTimeout) { [self] result in
            switch result {
            case .success(let answer): done(answer)
            case .failure(let error) where error.isRetryable || simulation.isAwaitingRestart(error):
                if error.code == .rankUnavailable { recorded() }
                recover(after: error)
            case .failure(let error) where error.code == .claimed && hasCrashed: recover(after: error)
            case .failure(let error):
                unanswered = nil
                wish.refused(error)
            }
        }
    }

    // MARK: Resuming

    /// Takes its sequences over from itself, or from who it was before it crashed.
    private func claim(_ rest: [ModelSequence]) {
        guard let sequence = rest.first else { return resume() }
        doing = "claiming \(sequence.name)"
        askCoordinator(
            AnyItem(ClaimSequence(sequence.record!.id, held: .none)), timeout: simulation.requestTimeout
        ) { [self] result in
            switch result {
            case .success(let answer):
                claims[sequence.name] = answer.answer(to: ClaimSequence.self)
                claim(Array(rest.dropFirst()))
            case .failure(let error) where error.isRetryable: recover(after: error)
            case .failure(let error): unexpected(error, doing)
            }
        }
    }

    /// Makes the ranks agree, checks what they hold, and takes their lengths over.
    private func resume() {
        doing = "resuming"
        statuses { [self] statuses in
            guard check(statuses) else { return }
            var rewinds: [(ModelSequence, Int)] = []
            for sequence in sequences {
                let progress = SequenceProgress(cluster.allRanks.map { ($0, statuses[$0]![sequence.record!.id]!) })
                switch Resumption(of: progress, atMost: sequence.length) {
                case .rewind(let length): rewinds.append((sequence, length))
                case .settled:
                    guard check(progress, of: sequence) else { return }
                    sequence.mayBeLonger = false
                    for layer in sequence.layers.indices { sequence.cut(layer, to: progress.length) }
                case .truncate(let length): return truncate(sequence, to: length)
                }
            }
            guard !rewinds.isEmpty else {
                resumed()
                return next()
            }
            rewind(rewinds) { [self] in resume() }
        }
    }

    typealias Statuses = [RankIndex: [SequenceID: SequenceStatus]]

    private func statuses(done: @escaping (Statuses) -> Void) {
        let epoch = topology!.epoch
        var isCurrent = true
        askRanks(
            Many(sequences.compactMap { $0.record.map { GetSequenceStatus($0.id) } }),
            timeout: simulation.requestTimeout,
            each: { _, frame, _ in isCurrent = isCurrent && frame.epoch == epoch }
        ) { [self] result in
            switch result {
            case .success where !isCurrent:
                // A status is answered in any epoch. Only in the client's own do the lengths have to be what it knows.
                recover(after: ServiceError(.staleEpoch, "The membership changed meanwhile."))
            case .success(let answers):
                // A rank whose store has failed may lack what has been opened since.
                let refusals = answers.sorted { $0.key < $1.key }.flatMap(\.value.answers).compactMap {
                    if case .failure(let error) = $0 { error } else { nil }
                }
                if let failed = refusals.first(where: simulation.isAwaitingRestart) { return recover(after: failed) }
                done(
                    answers.mapValues { reply in
                        // One that a rank has not, or not whole, is missing.
                        let statuses = reply.answers.compactMap { try? $0.get() }
                        return Dictionary(uniqueKeysWithValues: statuses.map { ($0.sequence, $0) })
                    })
            case .failure(let error): failed(error)
            }
        }
    }

    private func rewind(_ rest: [(ModelSequence, Int)], done: @escaping () -> Void) {
        guard let (sequence, length) = rest.first else { return done() }
        askRanks(
            Many([CutUncommitted(self.length(length, of: sequence))]), timeout: simulation.requestTimeout
        ) { [self] result in
            let refusals = result.map { $0.sorted { $0.key < $1.key }.flatMap(\.value.answers) }.map { answers in
                answers.compactMap { answer -> ServiceError? in
                    if case .failure(let error) = answer { error } else { nil }
                }
            }
            switch refusals {
            case .success(let errors) where !errors.isEmpty: failed(errors[0])
            case .success: rewind(Array(rest.dropFirst()), done: done)
            case .failure(let error): failed(error)
            }
        }
    }

    /// Goes on after a failure of a request to the ranks.
    func failed(_ error: ServiceError) {
        if simulation.isAwaitingRestart(error) { return recover(after: error) }
        if error.code == .storeDamaged {
            guard simulation.hasDamage else { return unexpected(error, doing) }
            turn += 1
            for sequence in sequences { sequence.mayBeLonger = true }
            // The ranks name a position; which sequence it is of only the words tell, so all are given up that far.
            if let sequence = sequences.first(where: {
                error.message.contains("\($0.record!.id) ") || error.message.contains("\($0.record!.id);")
            }) ?? sequences.first {
                return truncate(sequence, to: world.chance(0.5) ? Self.position(in: error.message) ?? 0 : 0)
            }
        }
        // A claim that it requested before it crashed arrived after its new one. A supervisor would restart such a
        // client.
        if error.code == .claimed, hasCrashed { return recover(after: error) }
        guard error.isRetryable else { return unexpected(error, doing) }
        if error.code == .overloaded { mustCommit = true }
        recover(after: error)
    }

    /// "truncate the sequence to 48 tokens".
    private static func position(in message: String) -> Int? {
        guard let range = message.firstRange(of: "truncate the sequence to ") else { return nil }
        return Int(message[range.upperBound...].prefix { $0.isNumber })
    }
}
