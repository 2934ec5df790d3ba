// SPDX-License-Identifier: Apache-2.0

internal import DCPAttention
internal import DCPCollectives
internal import DCPCore
internal import DCPWire

/// The strands of a step, each advanced as far as its inputs allow.
extension StepMachine {
    mutating func handle(_ actions: [AllGather<QuerySlice>.Action]) -> [Action] {
        actions.flatMap { action in
            switch action {
            case .send(let slice, let member): return [Action.sendQuery(slice, to: member)]
            case .finished(let slices):
                gathered = slices
                return startContextIfReady()
            }
        }
    }

    /// Appends of one layer run in the order of their positions, on however many threads.
    mutating func startAppendIfWaiting() -> [Action] {
        guard case .waiting = append else { return [] }
        append = .running
        outstandingCount += 1
        return [.startAppend]
    }

    /// Without queries: tells the group that this rank's tokens are in the cache.
    mutating func tellIfInPlace() -> [Action] {
        guard isInPlace else { return [] }
        do throws(ServiceError) {
            return handle(try appends.contribute(InPlace()))
        } catch {
            return fail(error)
        }
    }

    mutating func handle(_ actions: [AllGather<InPlace>.Action]) -> [Action] {
        actions.flatMap { action in
            switch action {
            case .send(_, let member): return [Action.sendAppended(to: member)]
            case .finished:
                isInPlaceEverywhere = true
                return replyIfReady()
            }
        }
    }

    mutating func startContextIfReady() -> [Action] {
        guard case .gathering = phase, let gathered, isContextReady else { return [] }
        self.gathered = nil
        phase = .attending
        outstandingCount += 1
        return [.startContext(gathered)]
    }

    mutating func startExchange(_ states: ContextStates) throws(ServiceError) -> [Action] {
        phase = .exchanging
        switch states {
        case .cut(let slices):
            precondition(plan.exchange == .allToAll, "the states are cut for another exchange")
            return handle(try partials.contribute(slices))
        case .whole(let states):
            precondition(plan.exchange == .allGatherReduceScatter, "the states are not cut for their exchange")
            contextPartial = states
            return handle(try logSumExps.contribute(states.lse))
        }
    }

    mutating func handle(_ actions: [AllToAll<Partial>.Action]) -> [Action] {
        actions.flatMap { action in
            switch action {
            case .send(let partial, let member): return [Action.sendPartial(partial, to: member)]
            case .finished(let partials):
                exchanged = .partials(partials)
                return startMergeIfReady()
            }
        }
    }

    mutating func handle(_ actions: [AllGather<[Double]>.Action]) -> [Action] {
        actions.flatMap { action in
            switch action {
            case .send(let rows, let member): return [Action.sendLogSumExp(rows, to: member)]
            case .finished(let rows):
                guard let states = contextPartial else { preconditionFailure("LSE gathered before the own was given") }
                contextPartial = nil
                outstandingCount += 1
                return [.startCorrection(states, lse: rows)]
            }
        }
    }

    mutating func handle(_ actions: [ReduceScatter<[Float]>.Action]) -> [Action] {
        actions.flatMap { action in
            switch action {
            case .send(let summand, let member): return [Action.sendCorrected(summand, to: member)]
            case .reduce(let summands):
                guard let ownLSE else { preconditionFailure("outputs gathered before the own were given") }
                exchanged = .summands(summands, lse: ownLSE)
                return startMergeIfReady()
            }
        }
    }

    mutating func startMergeIfReady() -> [Action] {
        guard case .exchanging = phase, let exchanged, let newTokens else { return [] }
        self.exchanged = nil
        self.newTokens = nil
        phase = .merging
        switch exchanged {
        case .nothing:
            outstandingCount += 1
            return [.startMerge([], newTokens: newTokens)]
        case .partials(let partials):
            outstandingCount += 1
            return [.startMerge(partials, newTokens: newTokens)]
        case .summands(let summands, let lse):
            outstandingCount += 1
            return [.startReduction(summands, lse: lse, newTokens: newTokens)]
        }
    }

    /// The client may send its next step or its commit as soon as it has the reply, so the tokens must be in place
    /// before.
    mutating func replyIfReady() -> [Action] {
        guard case .merging = phase, isInPlace, isInPlaceEverywhere, output != nil else { return [] }
        guard plan.commits else { return reply() }
        phase = .committing
        outstandingCount += 1
        return [.startCommit]
    }

    mutating func reply() -> [Action] {
        guard let output else { preconditionFailure("replied twice") }
        self.output = nil
        phase = .replied
        return [.reply(output)]
    }
}
