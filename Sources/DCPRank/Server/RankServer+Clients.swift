internal import DCPAttention
internal import DCPCache
internal import DCPCore
internal import DCPObservability
internal import DCPTransport
internal import DCPWire
internal import NIOCore

/// What clients ask of a rank.
extension RankServer {
    func receive(_ frame: Frame, fromClient link: Link) {
        switch frame.message {
        case .step(let request):
            admit(request, frame: frame, from: link)
        case .commit(let lengths):
            commit(lengths, frame: frame, from: link)
        case .sequenceStatusRequest(let sequences):
            guard sequences.count <= Self.statusSequencesMax else {
                let error = ServiceError(
                    .invalidRequest,
                    "\(sequences.count) sequences are asked about at once, the limit is \(Self.statusSequencesMax); ask in "
                        + "several requests.")
                return answer(link, frame.tag, .failure(error))
            }
            guard coordinator.hasJoined else {
                let error = ServiceError(
                    .notReady,
                    "\(configuration.rank) has started and not joined the cluster yet, so its lengths may change; try again."
                )
                return answer(link, frame.tag, .failure(error))
            }
            whenRolledBack(sequences) { [weak link] in
                self.answer(link, frame.tag, .sequenceStatus(self.status(of: sequences)))
            }
        case .rewind(let length):
            rewind(length, frame: frame, from: link)
        case .rankStatusRequest:
            reportStatus(frame, to: link)
        case .hostReportRequest:
            reportHost(frame, to: link)
        case .verificationRequest(let request):
            verify(request, frame: frame, from: link)
        case .rowsRequest(let request):
            readRows(request, frame: frame, from: link)
        default:
            counters.framesRefused.count(.protocolViolation)
            link.close(
                ServiceError(
                    .protocolViolation, "A client sent a \(frame.message.type) frame, which a rank does not take."))
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
            "The request is of \(epoch), \(configuration.rank) serves \(coordinator.epoch); ask the coordinator for "
                + "the topology and try again.")
    }

    // MARK: Steps

    private func admit(_ request: StepRequest, frame: Frame, from link: Link) {
        let tag = frame.tag
        // Sent twice: the answer that is on its way answers both.
        guard steps[tag] == nil else { return }
        do throws(ServiceError) {
            try checkServing(frame.epoch)
            if let verdict = steps.verdict(for: tag) { throw verdict }
            guard steps.executions.count < configuration.stepsInFlightMax else {
                throw ServiceError(
                    .overloaded,
                    "\(steps.executions.count) steps are in flight, the limit is \(configuration.stepsInFlightMax); "
                        + "try again when some have ended.")
            }
            for entry in request.entries { try checkClaim(entry.claim, on: entry.sequence, from: link) }
            let (plan, appends, isContextReady) = try check(request, tag: tag)
            let timeout = min(
                .milliseconds(Int64(request.timeoutMilliseconds)), configuration.stepTimeoutMax)
            var machine = StepMachine(plan, appends: appends)
            machine.repliesBeforeAppend = configuration.broken == .append
            let execution = StepExecution(
                tag: tag, request: request, epoch: frame.epoch, machine: machine, client: link, server: self,
                timeout: timeout)
            stepByteCount += execution.byteCount
            let early = steps.insert(execution)
            execution.start()
            if isContextReady { execution.deliver(.contextReady) }
            for (frame, member) in early { execution.receive(frame.message, from: member) }
        } catch {
            refuse(error, request, tag: tag, epoch: frame.epoch, from: link)
        }
    }

    /// A step this rank cannot take: the verdict goes to the client and to the group, where the step may be waiting.
    private func refuse(_ error: ServiceError, _ request: StepRequest, tag: Tag, epoch: Epoch, from link: Link) {
        counters.stepsAborted.count(error.code)
        observe(.stepAborted(tag, request.entries.map(\.sequence), error, after: nil))
        answer(link, tag, .failure(error))
        var verdict = error
        verdict.rank = verdict.rank ?? configuration.rank
        steps.refuse(tag, verdict)
        if epoch == coordinator.epoch { abortInGroup(tag, verdict) }
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
                        "\(entry.sequence) is being changed, or an aborted step's tokens are being taken back; ask for its "
                            + "length and try again.")
                }
                guard state.model == request.model else {
                    throw ServiceError(
                        .modelMismatch,
                        "\(entry.sequence) belongs to \(state.model), the step is for \(request.model); open the "
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
                    "\(tag) is over, and what it appended is gone; resume the sequence, or send the step with a higher "
                        + "attempt.")
            }
            let repeats = admitted.count { $0.1 == .repeat }
            guard repeats == 0 || repeats == admitted.count else {
                throw ServiceError(
                    .conflict, "Some of the step's tokens are already there and some are not; send a new step.")
            }
            // A canary tells whether steps go through; that the disk is full, the store's condition tells.
            if repeats == 0, model.name != CanaryNames.model { try checkTakesTokens(request.entries) }
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

    private func commit(_ lengths: [SequenceLength], frame: Frame, from link: Link) {
        do throws(ServiceError) {
            try checkServing(frame.epoch)
            for length in lengths { try checkClaim(length.claim, on: length.sequence, from: link) }
        } catch {
            return answer(link, frame.tag, .failure(error))
        }
        commitsInFlight += 1
        for length in lengths { commitsOn[length.sequence, default: 0] += 1 }
        let began = eventLoop.now
        if configuration.broken == .commit { answer(link, frame.tag, .committed) }
        let bound = NIOLoopBound((server: self, link: link), eventLoop: eventLoop)
        let eventLoop = eventLoop
        cache.commit(lengths.map { ($0.sequence, $0.length) }) { result in
            eventLoop.execute {
                let (server, link) = bound.value
                server.uses.note(lengths.lazy.map(\.sequence).filter { server.cache.holds($0) })
                switch result {
                case .success:
                    server.counters.commits.observe(server.eventLoop.now - began)
                    server.answer(link, frame.tag, .committed)
                case .failure(let error):
                    server.counters.commitsFailed.count(error.code)
                    server.observe(.commitFailed(lengths.map(\.sequence), error))
                    server.answer(link, frame.tag, .failure(error))
                }
                server.commitsInFlight -= 1
                for length in lengths {
                    let rest = server.commitsOn[length.sequence, default: 1] - 1
                    server.commitsOn[length.sequence] = rest > 0 ? rest : nil
                }
                server.runQuietWaiters()
                server.finishDrainIfEmpty()
            }
        }
    }

    private func rewind(_ length: SequenceLength, frame: Frame, from link: Link) {
        let sequence = length.sequence
        do throws(ServiceError) {
            try checkServing(frame.epoch)
            try checkClaim(length.claim, on: sequence, from: link)
            let committed = cache.state(of: sequence)?.committedLength ?? 0
            guard length.length >= committed else {
                throw ServiceError(
                    .invalidRequest,
                    "\(sequence) has \(committed) committed tokens and cannot be rewound to \(length.length); use `dcpctl "
                        + "sequence truncate` to go below them.")
            }
            abortSteps(on: sequence, ServiceError(.stepAborted, "\(sequence) was rewound."))
            whenQuiet(sequence) { [weak link] in
                self.answer(link, frame.tag, self.rewound(sequence, to: length.length))
            }
        } catch {
            answer(link, frame.tag, .failure(error))
        }
    }

    private func rewound(_ sequence: SequenceID, to length: Int) -> Message {
        do throws(ServiceError) {
            try cache.rewind(sequence: sequence, length: length)
            cursors.forget(sequence)
            return .rewound
        } catch {
            return .failure(error)
        }
    }

    // MARK: Status

    /// With a thousand layers the answer still fits a frame.
    static let statusSequencesMax = 1024

    /// A sequence this rank does not have is left out.
    private func status(of sequences: [SequenceID]) -> [SequenceStatus] {
        sequences.compactMap { cache.state(of: $0) }.map { state in
            SequenceStatus(
                sequence: state.id, committedLength: state.committedLength, layerLengths: state.layerLengths,
                localTokens: cluster.layout.localLength(
                    ofRank: cluster.contextRank(of: configuration.rank), length: state.committedLength),
                claim: state.claim)
        }
    }

    private func reportStatus(_ frame: Frame, to link: Link) {
        do throws(ServiceError) {
            answer(link, frame.tag, .rankStatus(status(try cache.statistics())))
        } catch {
            answer(link, frame.tag, .failure(error))
        }
    }

    /// The rank adds what it alone knows: its kernels, and whether it reaches the others of its group.
    private func reportHost(_ frame: Frame, to link: Link) {
        hostReporter.report { [weak self, weak link] result in
            guard let self else { return }
            switch result {
            case .success(var report):
                report.peers = peers.reached.map { HostReport.Peer(rank: $0.rank, isReached: $0.isReached) }
                let kernels = KernelSelection.current
                report.kernels = HostReport.Kernels(
                    instructionSet: kernels.instructionSet, widest: AttentionKernels.available.last!.name,
                    openBLASCore: kernels.openBLASCore,
                    openBLASCoreIsForcedOlder: kernels.openBLASCoreIsForcedOlder)
                answer(link, frame.tag, .hostReport(report))
            case .failure(let error): answer(link, frame.tag, .failure(error))
            }
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
        status.piecedBlocks = UInt64(statistics.piecedBlocks)
        status.uncommittedByteCountMax = UInt64(cache.settings.uncommittedByteCountMax)
        return status
    }
}
