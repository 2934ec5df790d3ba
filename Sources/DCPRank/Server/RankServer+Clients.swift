internal import DCPAttention
internal import DCPCache
internal import DCPCore
internal import DCPObservability
internal import DCPTransport
internal import DCPWire
internal import NIOCore

/// Clients' requests to a rank.
extension RankServer {
    private static let requests = {
        var table = RequestTable<RankServer>()
        table.on(StepRequest.self) { $0.admit($1, $2) }
        table.on(Commit.self) { $0.commit($1.parts, $2) }
        table.on(Many<GetSequenceStatus>.self) { $0.tellStatus(of: $1.items.map(\.sequence), $2) }
        table.on(Many<CutUncommitted>.self) { $0.cutUncommitted($1.items.map(\.length), $2) }
        table.on(RowsRequest.self) { $0.readRows($1, $2) }
        table.on(ReadTokens.self) { $0.readTokens($1, $2) }
        table.on(MatchTokens.self) { $0.match($1, $2) }
        table.on(GetRankStatus.self) { $0.reportStatus($2) }
        table.on(VerificationRequest.self) { $0.verify($1, $2) }
        table.on(GetHostReport.self) { $0.reportHost($2) }
        table.on(ReadCopy.self) { server, request, call in
            server.copies.read(request) { [weak server] in server?.answer(call, $0) }
        }
        table.on(EndCopy.self) { server, request, call in
            server.copies.end(request.number)
            server.answer(call, Done())
        }
        return table
    }()

    func receive(_ frame: Frame, fromClient link: Link) {
        guard case .request(let body) = frame.message else {
            counters.framesRefused.count(.protocolViolation)
            return link.close(
                ServiceError(
                    .protocolViolation, "A client sent a \(frame.message.type) frame, which a rank does not accept."))
        }
        do throws(ServiceError) {
            try Self.requests.handle(body, of: frame, from: link, by: self)
        } catch {
            answer(link, frame.tag, .failure(error))
            guard error.code != .accessDenied else {
                // No step of another client ends because of it, whatever its tag.
                return observe(.refused(peer: link.remoteAddress, .missingRight, error))
            }
            counters.framesRefused.count(error.code)
            guard body.type == StepRequest.type, steps[frame.tag] == nil else { return }
            // The others of the group may have been sent steps that can be read.
            tellGroup(error, of: frame.tag, epoch: frame.epoch)
        }
    }

    func answer<R: Request>(_ call: Call<R>, _ reply: R.Reply) {
        answer(call.link, call.tag, .reply(reply, to: R.self))
    }

    /// Each item by itself; who has refused it is named.
    func answer<Item: RequestItem>(_ call: Call<Many<Item>>, each answers: [Result<Item.Answer, ServiceError>]) {
        let rank = configuration.rank
        answer(
            call,
            Many.Reply(
                answers.map { answer in
                    answer.mapError { error in
                        var error = error
                        error.rank = error.rank ?? rank
                        return error
                    }
                }))
    }

    func refuse<R: Request>(_ call: Call<R>, _ error: ServiceError) { answer(call.link, call.tag, .failure(error)) }

    func answer<R: Request>(_ call: Call<R>, _ result: Result<R.Reply, ServiceError>) {
        switch result {
        case .success(let reply): answer(call, reply)
        case .failure(let error): refuse(call, error)
        }
    }

    /// - Throws: why this rank cannot serve data at all, or not in the frame's epoch.
    func checkServing(_ epoch: Epoch) throws(ServiceError) {
        // Whether it serves or not: an older epoch's request can never be taken, and its sender is to know why.
        guard epoch >= coordinator.epoch || configuration.broken == .epoch else { throw staleEpoch(epoch) }
        try coordinator.checkServing()
        guard epoch == coordinator.epoch || configuration.broken == .epoch else { throw staleEpoch(epoch) }
    }

    private func staleEpoch(_ epoch: Epoch) -> ServiceError {
        ServiceError(
            .staleEpoch,
            "The request is for \(epoch), but \(configuration.rank) serves \(coordinator.epoch); get the topology "
                + "from the coordinator and try again.")
    }

    // MARK: Steps

    private func admit(_ request: StepRequest, _ call: Call<StepRequest>) {
        let tag = call.tag
        // Sent twice: the answer that is on its way answers both.
        guard steps[tag] == nil, let link = call.link else { return }
        do throws(ServiceError) {
            try checkServing(call.epoch)
            if let verdict = steps.verdict(for: tag) { throw verdict }
            guard steps.executions.count < configuration.stepsInFlightMax else {
                throw ServiceError(
                    .overloaded,
                    "\(steps.executions.count) steps are in flight, but the limit is "
                        + "\(configuration.stepsInFlightMax); try again when some have ended.")
            }
            for entry in request.entries { try checkClaim(entry.claim, on: entry.sequence, from: link) }
            for part in request.commits { try checkClaim(part.claim, on: part.sequence, from: link) }
            let (plan, appends, isContextReady) = try check(request, tag: tag)
            let timeout = min(
                .milliseconds(Int64(request.timeoutMilliseconds)), configuration.stepTimeoutMax)
            var machine = StepMachine(plan, appends: appends)
            machine.repliesBeforeAppend = configuration.broken == .append
            let execution = StepExecution(
                tag: tag, request: request, epoch: call.epoch, machine: machine, client: link, server: self,
                timeout: timeout)
            stepByteCount += execution.byteCount
            let early = steps.insert(execution)
            execution.start()
            if isContextReady { execution.deliver(.contextReady) }
            for (frame, member) in early { execution.receive(frame.message, from: member) }
        } catch {
            refuse(error, request, call)
        }
    }

    /// A step this rank cannot take: the verdict goes to the client and to the group, where the step may be waiting.
    private func refuse(_ error: ServiceError, _ request: StepRequest, _ call: Call<StepRequest>) {
        let tag = call.tag
        counters.stepsAborted.count(error.code)
        observe(.stepAborted(tag, request.entries.map(\.sequence), error, after: nil))
        refuse(call, error)
        tellGroup(error, of: tag, epoch: call.epoch)
    }

    private func tellGroup(_ error: ServiceError, of tag: Tag, epoch: Epoch) {
        var verdict = error
        verdict.rank = verdict.rank ?? configuration.rank
        steps.refuse(tag, verdict)
        if epoch == coordinator.epoch { port.abort(tag, in: epoch, verdict) }
    }

    private func check(_ request: StepRequest, tag: Tag) throws(ServiceError) -> (StepPlan, Bool, Bool) {
        guard let model = cache.model(request.model) else {
            throw ServiceError(.unknownModel, "\(request.model) is not registered; open the sequence again.")
        }
        let layer = Int(tag.layer)
        guard layer < model.description.layers else {
            throw ServiceError(
                .invalidRequest,
                "Layer \(layer) is outside 0..<\(model.description.layers) of model `\(model.name)`; correct --layer.")
        }
        let plan = try StepPlan(
            request, layer: layer,
            model: ModelRecord(id: request.model, name: model.name, description: model.description), cluster: cluster,
            rank: configuration.rank)
        try request.checkTensors()
        try checkRoom(for: request, plan)
        var admitted: [(StepRequest.Entry, LayerCursors.Admission)] = []
        do throws(ServiceError) {
            for entry in request.entries {
                guard let state = cache.state(of: entry.sequence) else {
                    throw unknown(entry.sequence)
                }
                // Of a refused step as well: who tries again will need it.
                uses.note([entry.sequence])
                guard !changing.contains(entry.sequence), !isRollingBack(entry, layer: layer) else {
                    throw ServiceError(
                        .stepAborted,
                        "\(entry.sequence) is being changed, or the tokens of an aborted step are being rolled back; "
                            + "get its length and try again.")
                }
                guard state.model == request.model else {
                    throw ServiceError(
                        .modelMismatch,
                        "\(entry.sequence) belongs to \(state.model), but the step is for \(request.model); open the "
                            + "sequence again.")
                }
                let length = state.layerLengths[layer]
                guard request.appends else {
                    try cursors.checkQueries(entry, layer: layer, length: length)
                    continue
                }
                admitted.append((entry, try cursors.admit(entry, tag: tag, layer: layer, length: length)))
            }
            guard request.appends else { return (plan, false, isContextReady(request, layer: layer)) }
            // A copy that comes after the original was answered and its tokens were cut off again.
            if steps.isOver(tag), admitted.contains(where: { $0.1 != .repeat }) {
                throw ServiceError(
                    .stepAborted,
                    "\(tag) has ended, and its tokens were rolled back; resume the sequence, or send the step with a "
                        + "higher attempt.")
            }
            let repeats = admitted.count { $0.1 == .repeat }
            guard repeats == 0 || repeats == admitted.count else {
                throw ServiceError(
                    .conflict, "Some of the step's tokens are already stored and some are not; send a new step.")
            }
            // A canary tells whether steps go through; that the disk is full, the store's condition tells.
            if repeats == 0, !isCanary(request, plan.layout) { try checkTakesTokens(request.entries) }
        } catch {
            for (entry, admission) in admitted where admission != .repeat {
                cursors.rolledBack(entry, layer: layer)
            }
            throw error
        }
        return (plan, admitted.allSatisfy { $0.1 != .repeat }, isContextReady(request, layer: layer))
    }

    private func isRollingBack(_ entry: StepRequest.Entry, layer: Int) -> Bool {
        steps.executions.values.contains {
            $0.request.appends && $0.machine.isOver && Int($0.tag.layer) == layer && $0.touches(entry.sequence)
        }
    }

    // MARK: Commits

    private func commit(_ parts: [SequenceCommit], _ call: Call<Commit>) {
        guard let link = call.link else { return }
        do throws(ServiceError) {
            try checkServing(call.epoch)
            for part in parts { try checkClaim(part.claim, on: part.sequence, from: link) }
        } catch {
            return refuse(call, error)
        }
        if configuration.broken == .commit { answer(call, Done()) }
        commit(parts) { [self] result in answer(call, result.map { Done() }) }
    }

    /// - Parameter done: called on the loop.
    func commit(_ parts: [SequenceCommit], done: @escaping (Result<Void, ServiceError>) -> Void) {
        commitsInFlight += 1
        for part in parts { beginWriting(part.sequence) }
        let began = eventLoop.now
        let bound = NIOLoopBound((server: self, done: done), eventLoop: eventLoop)
        let eventLoop = eventLoop
        let wanted = parts.map {
            CommitPart($0.sequence, length: $0.length, tokens: $0.tokens, annotation: $0.annotation)
        }
        cache.commit(wanted) { result in
            eventLoop.execute {
                let (server, done) = bound.value
                server.uses.note(parts.lazy.map(\.sequence).filter { server.cache.holds($0) })
                switch result {
                case .success: server.counters.commits.observe(server.eventLoop.now - began)
                case .failure(let error):
                    server.counters.commitsFailed.count(error.code)
                    server.observe(.commitFailed(parts.map(\.sequence), error))
                }
                done(result)
                server.commitsInFlight -= 1
                for part in parts { server.endWriting(part.sequence) }
                server.finishDrainIfEmpty()
            }
        }
    }

    /// Each separately, when no running request can change the sequence any more.
    private func cutUncommitted(_ lengths: [SequenceLength], _ call: Call<Many<CutUncommitted>>) {
        do throws(ServiceError) { try checkServing(call.epoch) } catch { return refuse(call, error) }
        let answers = ItemAnswers<CutLength>(count: lengths.count) { [self] in answer(call, each: $0) }
        for (index, length) in lengths.enumerated() {
            do throws(ServiceError) {
                guard let link = call.link else { return }
                try checkClaim(length.claim, on: length.sequence, from: link)
                abortSteps(on: length.sequence, ServiceError(.stepAborted, "\(length.sequence) was cut."))
                whenIdle(length.sequence) { [self] in
                    answers[index] = Result { () throws(ServiceError) in try cut(length.sequence, to: length.length) }
                }
            } catch {
                answers[index] = .failure(error)
            }
        }
    }

    /// - Returns: where the sequence ends then: committed tokens are not cut.
    private func cut(_ sequence: SequenceID, to length: Int) throws(ServiceError) -> CutLength {
        guard let state = cache.state(of: sequence) else { throw unknown(sequence) }
        let shortest = state.layerLengths.min() ?? 0
        guard length <= shortest else {
            throw ServiceError(
                .positionMismatch,
                "\(sequence) has \(shortest) tokens in all layers on \(configuration.rank) and cannot be cut to \(length); "
                    + "choose at most \(shortest).")
        }
        let kept = max(length, state.committedLength)
        try cache.rewind(sequence: sequence, length: kept)
        cursors.forget(sequence)
        return CutLength(kept)
    }

    // MARK: Status

    private func tellStatus(of sequences: [SequenceID], _ call: Call<Many<GetSequenceStatus>>) {
        guard coordinator.hasJoined else {
            return refuse(
                call,
                ServiceError(
                    .notReady,
                    "\(configuration.rank) has not joined the cluster yet, so its lengths may change; try again."
                ))
        }
        whenRolledBack(sequences) { [self] in
            answer(
                call, each: sequences.map { sequence in Result { () throws(ServiceError) in try status(of: sequence) } }
            )
        }
    }

    private func status(of sequence: SequenceID) throws(ServiceError) -> SequenceStatus {
        guard let state = cache.state(of: sequence) else { throw unknown(sequence) }
        return SequenceStatus(
            sequence: state.id, committedLength: state.committedLength, layerLengths: state.layerLengths,
            localTokens: cluster.layout.localLength(
                ofRank: cluster.contextRank(of: configuration.rank), length: state.committedLength),
            claim: state.claim, intactLength: state.intactLength, tokenIDs: state.areIDsIntact ? state.tokenIDs : 0)
    }

    private func reportStatus(_ call: Call<GetRankStatus>) {
        answer(call, Result { () throws(ServiceError) in status(try cache.statistics()) })
    }

    /// The rank adds what it alone knows: its kernels, and whether it reaches the others of its group.
    private func reportHost(_ call: Call<GetHostReport>) {
        hostReporter.report { [weak self] result in
            guard let self else { return }
            answer(
                call,
                result.map { report in
                    var report = report
                    report.peers = peers.reached
                    let kernels = KernelSelection.current
                    report.kernels = HostReport.Kernels(
                        instructionSet: kernels.instructionSet, widest: AttentionKernels.available.last!.name,
                        openBLASCore: kernels.openBLASCore,
                        openBLASCoreIsForcedOlder: kernels.openBLASCoreIsForcedOlder)
                    return report
                })
        }
    }

    private func status(_ statistics: CacheStatistics) -> RankStatus {
        let traffic = traffic
        var status = RankStatus(
            rank: configuration.rank, processID: processID, store: cache.storeID, threads: UInt32(pool.threads),
            kernels: "\(KernelSelection.current)", sequences: UInt64(statistics.sequences),
            tokens: UInt64(statistics.localTokens), sealedBlocks: UInt64(statistics.sealedBlocks),
            openBlockByteCount: UInt64(statistics.memoryByteCount),
            uncommittedByteCount: UInt64(statistics.uncommittedByteCount),
            storeByteCount: UInt64(statistics.storeUsedByteCount),
            mapByteCountMax: UInt64(statistics.storeMapByteCount),
            stepsInFlight: UInt64(steps.executions.count), stepsCompleted: counters.stepsCompleted,
            stepsAborted: counters.stepsAborted.total, framesRefused: counters.framesRefused.total,
            receiveByteCount: traffic.received, sendByteCount: traffic.sent, stepTokens: counters.tokens,
            commits: counters.commits.count, commitNanoseconds: counters.commits.sum,
            peersConnected: UInt64(peers.links.count), stepTimes: counters.stepTimes, room: room(statistics))
        status.peersSharingMemory = UInt64(peers.links.count { $0.sharesMemory })
        status.piecedBlocks = UInt64(statistics.piecedBlocks)
        status.uncommittedByteCountMax = UInt64(cache.settings.uncommittedByteCountMax)
        status.spilledByteCount = UInt64(statistics.spilledByteCount)
        status.holders = cache.uncommittedHoldings.prefix(Self.holdersNamedMax).map { holding in
            RankStatus.Holder(
                sequence: holding.sequence, byteCount: UInt64(holding.byteCount),
                spilledByteCount: UInt64(holding.spilledByteCount))
        }
        return status
    }
}
