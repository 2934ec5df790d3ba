// SPDX-License-Identifier: Apache-2.0

internal import DCPCache
internal import DCPCore
internal import DCPObservability
internal import DCPTransport
internal import DCPWire
internal import NIOCore

/// The admission of steps.
extension RankServer {
    func admit(_ request: StepRequest, _ call: Call<StepRequest>) {
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
            try checkClaims(request.entries.lazy.map { ($0.sequence, $0.claim) }, from: link)
            try checkClaims(request.commits.lazy.map { ($0.sequence, $0.claim) }, from: link)
            let (plan, byteCount, isCanary) = try plan(of: request, layer: Int(tag.layer))
            let (appends, isContextReady) = try check(request, tag: tag, isCanary: isCanary)
            let timeout = min(
                .milliseconds(Int64(request.timeoutMilliseconds)), configuration.stepTimeoutMax)
            let execution = StepExecution(
                tag: tag, request: request, epoch: call.epoch, machine: StepMachine(plan, appends: appends),
                byteCount: byteCount, isCanary: isCanary, client: link, host: self, timeout: timeout)
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
        aborted(tag, request, error, after: nil)
        refuse(call, error)
        tellGroup(error, of: tag, epoch: call.epoch)
    }

    func tellGroup(_ error: ServiceError, of tag: Tag, epoch: Epoch) {
        var verdict = error
        verdict.rank = verdict.rank ?? configuration.rank
        steps.refuse(tag, verdict)
        if epoch == coordinator.epoch { port.abort(tag, in: epoch, verdict) }
    }

    /// - Returns: the plan, the bytes that the step will hold, and whether it is a canary's.
    private func plan(
        of request: StepRequest, layer: Int
    ) throws(ServiceError) -> (StepPlan, byteCount: Int, isCanary: Bool) {
        guard let model = cache.model(request.model) else {
            throw ServiceError(.unknownModel, "\(request.model) is not registered; open the sequence again.")
        }
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
        return (plan, try checkRoom(for: request, plan), isCanary(request, plan.layout))
    }

    /// Admits each of a step's entries, or none.
    /// - Returns: whether there is something to append, and whether all tokens before the step's are there.
    private func check(
        _ request: StepRequest, tag: Tag, isCanary: Bool
    ) throws(ServiceError) -> (appends: Bool, isContextReady: Bool) {
        let layer = Int(tag.layer)
        guard request.appends else {
            for entry in request.entries {
                try cursors.checkQueries(entry, layer: layer, length: try length(of: entry, request, layer: layer))
            }
            return (false, isContextReady(request, layer: layer))
        }
        var admitted: [LayerCursors.Admission] = []
        admitted.reserveCapacity(request.entries.count)
        do throws(ServiceError) {
            for entry in request.entries {
                let length = try length(of: entry, request, layer: layer)
                admitted.append(try cursors.admit(entry, tag: tag, layer: layer, length: length))
            }
            let repeats = admitted.count { $0 == .repeat }
            // A copy that comes after the original was answered and its tokens were cut off again.
            if repeats < admitted.count, steps.isOver(tag) {
                throw ServiceError(
                    .stepAborted,
                    "\(tag) has ended, and its tokens were rolled back; resume the sequence, or send the step with a "
                        + "higher attempt.")
            }
            guard repeats == 0 || repeats == admitted.count else {
                throw ServiceError(
                    .conflict, "Some of the step's tokens are already stored and some are not; send a new step.")
            }
            // A canary tells whether steps go through; that the disk is full, the store's condition tells.
            if repeats == 0, !isCanary { try checkTakesTokens(request.entries) }
            guard repeats == 0 else { return (false, isContextReady(request, layer: layer)) }
            return (true, admitted.allSatisfy { $0 == .append(isContextReady: true) })
        } catch {
            for (entry, admission) in zip(request.entries, admitted) where admission != .repeat {
                cursors.rolledBack(entry, layer: layer)
            }
            throw error
        }
    }

    /// The end of an entry's layer in the cache. The entry counts as a use even if the step is refused: a client that tries
    /// again will need it.
    private func length(
        of entry: StepRequest.Entry, _ request: StepRequest, layer: Int
    ) throws(ServiceError) -> Int {
        guard let found = cache.layer(layer, of: entry.sequence) else { throw unknown(entry.sequence) }
        uses.note(entry.sequence)
        guard !work.isChanging(entry.sequence), !isRollingBack(entry, layer: layer) else {
            throw ServiceError(
                .stepAborted,
                "\(entry.sequence) is being changed, or the tokens of an aborted step are being rolled back; get its "
                    + "length and try again.")
        }
        guard found.model == request.model else {
            throw ServiceError(
                .modelMismatch,
                "\(entry.sequence) belongs to \(found.model), but the step is for \(request.model); open the "
                    + "sequence again.")
        }
        return found.length.value
    }

    private func isRollingBack(_ entry: StepRequest.Entry, layer: Int) -> Bool {
        steps.executions.values.contains {
            $0.request.appends && $0.isOver && Int($0.tag.layer) == layer && $0.touches(entry.sequence)
        }
    }
}
