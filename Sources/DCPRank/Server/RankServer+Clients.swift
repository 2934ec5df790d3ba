// SPDX-License-Identifier: Apache-2.0

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
        guard epoch >= coordinator.epoch else { throw staleEpoch(epoch) }
        try coordinator.checkServing()
        guard epoch == coordinator.epoch else { throw staleEpoch(epoch) }
    }

    private func staleEpoch(_ epoch: Epoch) -> ServiceError {
        ServiceError(
            .staleEpoch,
            "The request is for \(epoch), but \(configuration.rank) serves \(coordinator.epoch); get the topology "
                + "from the coordinator and try again.")
    }

    // MARK: Commits

    private func commit(_ parts: [SequenceCommit], _ call: Call<Commit>) {
        guard let link = call.link else { return }
        do throws(ServiceError) {
            try checkServing(call.epoch)
            try checkClaims(parts.lazy.map { ($0.sequence, $0.claim) }, from: link)
        } catch {
            return refuse(call, error)
        }
        commit(parts) { [self] result in answer(call, result.map { Done() }) }
    }

    /// - Parameter done: called on the loop.
    func commit(_ parts: [SequenceCommit], done: @escaping (Result<Void, ServiceError>) -> Void) {
        work.beginCommit(of: parts.lazy.map(\.sequence))
        let began = eventLoop.now
        let bound = NIOLoopBound((server: self, done: done), eventLoop: eventLoop)
        let eventLoop = eventLoop
        let wanted = parts.map {
            CommitPart($0.sequence, length: Position($0.length), tokens: $0.tokens, annotation: $0.annotation)
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
                server.work.endCommit(of: parts.lazy.map(\.sequence))
                server.runReady()
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
                when(.idle(length.sequence)) { [self] in
                    answers[index] = Result { () throws(ServiceError) in
                        try cut(length.sequence, to: Position(length.length))
                    }
                }
            } catch {
                answers[index] = .failure(error)
            }
        }
    }

    /// - Returns: where the sequence ends then: committed tokens are not cut.
    private func cut(_ sequence: SequenceID, to length: Position) throws(ServiceError) -> CutLength {
        guard let state = cache.state(of: sequence) else { throw unknown(sequence) }
        let shortest = state.layerLengths.min() ?? Position(0)
        guard length <= shortest else {
            throw ServiceError(
                .positionMismatch,
                "\(sequence) has \(shortest) tokens in all layers on \(configuration.rank) and cannot be cut to \(length); "
                    + "choose at most \(shortest).")
        }
        let kept = max(length, state.committedLength)
        try cache.rewind(sequence: sequence, length: kept)
        cursors.forget(sequence)
        return CutLength(kept.value)
    }

    // MARK: Status

    private func tellStatus(of sequences: [SequenceID], _ call: Call<Many<GetSequenceStatus>>) {
        guard coordinator.hasJoined(for: call.epoch) else {
            return refuse(
                call,
                ServiceError(
                    .notReady,
                    "\(configuration.rank) has not joined the cluster yet, so its lengths may change; try again."
                ))
        }
        when(.rolledBack(sequences)) { [self] in
            answer(
                call, each: sequences.map { sequence in Result { () throws(ServiceError) in try status(of: sequence) } }
            )
        }
    }

    private func status(of sequence: SequenceID) throws(ServiceError) -> SequenceStatus {
        guard let state = cache.state(of: sequence) else { throw unknown(sequence) }
        return SequenceStatus(
            sequence: state.id, committedLength: state.committedLength.value,
            layerLengths: state.layerLengths.map(\.value), localTokens: cache.shard.count(of: state.committedLength),
            claim: state.claim, intactLength: state.intactLength.value,
            tokenIDs: state.areIDsIntact ? state.tokenIDs : 0)
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
                        instructionSet: kernels.instructionSet, fastest: kernels.fastest,
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
