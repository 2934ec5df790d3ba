internal import DCPClient
internal import DCPCore
internal import DCPWire

/// What a client does after a failure: what to try again is decided by `Outages`, what to rewind by `Resumption`, as in
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
            // Whoever started the client would start it again.
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
            .topologyRequest(waitMilliseconds: 1000), timeout: .seconds(1) + simulation.knobs.requestTimeout
        ) { [self] result in
            switch result {
            case .success(.topology(let topology)) where topology.phase == .ready:
                self.topology = topology
                askDirectory()
            case .success(.topology(let topology)): recover(after: ServiceError(.notReady, topology.reason))
            case .success(let other):
                unexpected(ServiceError(.internal, "\(other.type)"), "asking for the topology")
            case .failure(let error): recover(after: error)
            }
        }
    }

    /// Repeats what the directory has not answered; then resumes.
    func askDirectory() {
        guard let wish = unanswered else { return claim(sequences) }
        if let name = wish.claimed {
            askDirectory(.claim(name: name), for: wish) { [self] in ask(wish, $0.claim) }
        } else {
            ask(wish, .none)
        }
    }

    private func ask(_ wish: DirectoryWish, _ claim: Claim) {
        askDirectory(wish.request(claim), for: wish) { [self] reply in
            unanswered = nil
            wish.done(reply)
        }
        mayOvercommit(beside: wish.claimed)
    }

    private func askDirectory(
        _ request: DirectoryRequest, for wish: DirectoryWish, done: @escaping (DirectoryReply) -> Void
    ) {
        doing = "asking the directory for \(request)"
        askCoordinator(.directoryRequest(request), timeout: simulation.knobs.requestTimeout) { [self] result in
            switch result {
            case .success(.directoryReply(let reply)): done(reply)
            case .success(let other): unexpected(ServiceError(.internal, "\(other.type)"), doing)
            case .failure(let error) where error.isRetryable || simulation.isAwaitingRestart(error):
                recover(after: error)
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
            .directoryRequest(.claim(name: sequence.name)), timeout: simulation.knobs.requestTimeout
        ) { [self] result in
            switch result {
            case .success(.directoryReply(let reply)):
                claims[sequence.name] = reply.claim
                claim(Array(rest.dropFirst()))
            case .success(let other): unexpected(ServiceError(.internal, "\(other.type)"), doing)
            case .failure(let error) where error.isRetryable: recover(after: error)
            case .failure(let error): unexpected(error, doing)
            }
        }
    }

    private typealias Resuming = (sequence: ModelSequence, resumption: Resumption)

    /// Makes the ranks agree, checks what they hold, and takes their lengths over.
    private func resume() {
        doing = "resuming"
        settle(sequences.map { ($0, Resumption(atMost: $0.layers.map(\.count))) })
    }

    private func settle(_ resuming: [Resuming]) {
        statuses { [self] statuses in
            guard check(statuses) else { return }
            var resuming = resuming
            var rewinds: [Rewind] = []
            for index in resuming.indices {
                let sequence = resuming[index].sequence
                let progress = SequenceProgress(
                    cluster.allRanks.map { ($0, statuses[$0]![sequence.record!.id]!) })
                switch resuming[index].resumption.next(progress) {
                case .rewind(let lengths): rewinds.append((sequence, lengths, progress.committedLength))
                case .settled(let progress):
                    for (layer, length) in progress.layerLengths.enumerated() { sequence.cut(layer, to: length) }
                case .unsettled: return recover(after: ServiceError(.conflict, "The lengths do not settle."))
                }
            }
            guard !rewinds.isEmpty else { return next() }
            rewind(rewinds) { [self] in settle(resuming) }
        }
    }

    typealias Statuses = [RankIndex: [SequenceID: SequenceStatus]]

    private func statuses(done: @escaping (Statuses) -> Void) {
        let epoch = topology!.epoch
        var isCurrent = true
        let ids = sequences.compactMap { $0.record?.id }
        let message = Message.sequenceStatusRequest(ids)
        askRanks(
            Dictionary(uniqueKeysWithValues: cluster.allRanks.map { ($0, message) }), tag: takeTag(),
            timeout: simulation.knobs.requestTimeout,
            each: { _, frame in isCurrent = isCurrent && frame.epoch == epoch }
        ) { [self] result in
            switch result {
            case .success where !isCurrent:
                // A status is answered in any epoch. Only in the client's own do the lengths have to be what it knows.
                recover(after: ServiceError(.staleEpoch, "The membership changed meanwhile."))
            case .success(let answers):
                done(
                    answers.mapValues { answer in
                        guard case .sequenceStatus(let statuses) = answer else { return [:] }
                        return Dictionary(uniqueKeysWithValues: statuses.map { ($0.sequence, $0) })
                    })
            case .failure(let error): failed(error)
            }
        }
    }

    private typealias Rewind = (sequence: ModelSequence, lengths: [Int], committed: Int)

    private func rewind(_ rest: [Rewind], done: @escaping () -> Void) {
        guard let (sequence, lengths, committed) = rest.first else { return done() }
        let message = Message.rewind(
            sequence.record!.id, claim: claims[sequence.name]!, layerLengths: lengths)
        askRanks(
            Dictionary(uniqueKeysWithValues: cluster.allRanks.map { ($0, message) }), tag: takeTag(),
            timeout: simulation.knobs.requestTimeout
        ) { [self] result in
            switch result {
            case .success:
                sequence.mayBeLonger = false
                rewind(Array(rest.dropFirst()), done: done)
            case .failure(let error) where error.code == .invalidRequest || error.code == .positionMismatch:
                // A rank has committed more than another has: only a cut takes that back.
                truncate(sequence, to: committed)
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
        guard error.isRetryable else { return unexpected(error, doing) }
        recover(after: error)
    }

    /// "truncate the sequence to 48 tokens".
    private static func position(in message: String) -> Int? {
        guard let range = message.firstRange(of: "truncate the sequence to ") else { return nil }
        return Int(message[range.upperBound...].prefix { $0.isNumber })
    }
}
