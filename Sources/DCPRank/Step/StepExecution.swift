// SPDX-License-Identifier: Apache-2.0

internal import DCPAttention
internal import DCPCache
internal import DCPCore
internal import DCPObservability
internal import DCPTransport
internal import DCPWire
internal import NIOCore

/// The shell of a step: it drives the machine, and passes computations to the pool and messages to the links.
///
/// Confined to the event loop. Jobs on compute threads hold only what they need, all of it `Sendable`, and return to
/// the loop with an event.
final class StepExecution {
    let tag: Tag
    let request: StepRequest
    let epoch: Epoch
    /// Its place among the steps of this rank; set by the table.
    var ordinal: UInt64 = 0
    /// Bytes that the step holds while it is in flight.
    let byteCount: Int
    /// Whether the coordinator sent it to see whether steps go through.
    let isCanary: Bool
    private var machine: StepMachine
    /// The client, while it is connected.
    private weak var client: Link?
    /// Its table holds the execution until it is finished; then this cycle ends.
    private let host: any StepHost
    private let eventLoop: any EventLoop
    private let work: StepWork
    private var deadline: Scheduled<Void>?
    private let layer: Int
    private var timeline: StepTimeline

    init(
        tag: Tag, request: StepRequest, epoch: Epoch, machine: StepMachine, byteCount: Int, isCanary: Bool,
        client: Link, host: any StepHost, timeout: TimeAmount
    ) {
        self.tag = tag
        self.request = request
        self.epoch = epoch
        self.machine = machine
        self.client = client
        self.host = host
        eventLoop = host.eventLoop
        timeline = StepTimeline(arrival: eventLoop.now)
        layer = Int(tag.layer)
        self.byteCount = byteCount
        self.isCanary = isCanary
        work = StepWork(
            plan: machine.plan, request: request, layer: Int(tag.layer), cache: host.cache, pool: host.pool)
        let bound = NIOLoopBound(WeakExecution(self), eventLoop: eventLoop)
        deadline = eventLoop.scheduleTask(in: timeout) { bound.value.execution?.deliver(.expired) }
    }

    func isClient(_ link: Link) -> Bool { client === link }

    var plan: StepPlan { machine.plan }
    /// Whether the client has its answer.
    var isOver: Bool { machine.isOver }
    /// Whether the client has the outputs.
    var isAnswered: Bool { machine.isAnswered }
    /// Whether the tokens before the step's are in the cache.
    var isContextReady: Bool { machine.isContextReady }

    func touches(_ sequence: SequenceID) -> Bool { request.entries.contains { $0.sequence == sequence } }

    func start() {
        let own = QuerySlice(
            tokens: machine.plan.tokens, heads: request.queryHeads, keyDim: request.keyDim,
            dataType: request.queryDataType, queries: request.queryBuffer)
        perform(machine.start(own))
    }

    func deliver(_ event: StepMachine.Event) {
        perform(machine.handle(event))
        if machine.isFinished { host.finished(self) }
    }

    /// A message of another rank of the group.
    func receive(_ message: Message, from member: Int) { deliver(StepMachine.event(of: message, from: member)) }

    private func perform(_ actions: [StepMachine.Action]) {
        for action in actions { perform(action) }
    }

    private func perform(_ action: StepMachine.Action) {
        if let (message, member) = machine.message(of: action) { return send(message, to: member) }
        let plan = machine.plan
        switch action {
        case .startAppend:
            let isAtHand = request.entries.allSatisfy { work.cache.isAtHand($0.sequence) }
            let place = place(plan.appendTime(of: request), isAtHand)
            let arrive = arrival(from: place, failed: { .appendFailed($0.host.withHolders($1)) }) {
                (execution: StepExecution, _: Void) in
                execution.appended()
            }
            work.append(in: place, completion: arrive)
        case .startNewTokens:
            let place = place(plan.newTokensTime)
            work.attendNewTokens(
                in: place,
                completion: arrival(from: place) { execution, result in
                    execution.timeline.newTokens = result.span
                    execution.deliver(.newTokensDone(result.states))
                })
        case .startContext(let slices):
            timeline.contextReady = eventLoop.now
            let isRecent = host.hasRecentlyRead(plan, layer: layer)
            // The loop must not wait for a disk.
            let place = place(plan.contextTime, isRecent, splits: true, isAwaited: true)
            work.attendContext(
                slices, isRecent: isRecent, in: place,
                completion: arrival(from: place) { execution, result in
                    execution.timeline.context = result.span
                    execution.timeline.partialReady = execution.eventLoop.now
                    execution.host.hasRead(plan, layer: execution.layer)
                    execution.deliver(.contextDone(result.states))
                })
        case .startCorrection(let states, let lse):
            let place = place(plan.mergeTime(rows: states.rows), isAwaited: true)
            work.correct(
                states, lse: lse, in: place,
                completion: arrival(from: place) { $0.deliver(.correctionDone($1.0, lse: $1.1)) })
        case .startMerge(let partials, let newTokens):
            timeline.mergeReady = eventLoop.now
            let place = place(plan.mergeTime(rows: newTokens.rows), isAwaited: true)
            work.merge(partials, newTokens, in: place, completion: arrival(from: place) { $0.merged($1) })
        case .startReduction(let summands, let lse, let newTokens):
            timeline.mergeReady = eventLoop.now
            let place = place(plan.mergeTime(rows: newTokens.rows), isAwaited: true)
            work.reduce(summands, lse: lse, newTokens, in: place, completion: arrival(from: place) { $0.merged($1) })
        case .startCommit:
            host.commit(request.commits) { [self] result in
                switch result {
                case .success: deliver(.committed)
                case .failure(let error): deliver(.commitFailed(error))
                }
            }
        case .reply(let answer):
            over()
            // Taken before the answer is written: the client may run at once then, and this thread only after it.
            let replied = eventLoop.now
            host.answer(client, tag, .reply(answer))
            host.completed(self, timeline.times(replied: replied))
        case .fail(let error):
            over()
            host.answer(client, tag, .failure(error))
            host.aborted(tag, request, error, after: eventLoop.now - timeline.arrival)
        case .rollBack: host.rollBack(request.entries, layer: layer)
        case .sendQuery, .sendPartial, .sendLogSumExp, .sendCorrected, .sendAbort, .sendAppended:
            preconditionFailure("what is sent is a message")
        }
    }

    /// The client has its answer: the deadline is cancelled, and pieces that still wait for a thread are dropped.
    private func over() {
        deadline?.cancel()
        work.cancel()
    }

    private func merged(_ answer: EncodedBody) {
        timeline.merged = eventLoop.now
        deliver(.mergeDone(answer))
    }

    private func appended() {
        // Tokens of a failed step are about to be rolled back: no step may build on them.
        if !machine.isOver { host.appended(request.entries, layer: layer) }
        deliver(.appended)
    }

    private func send(_ message: Message, to member: Int) {
        do throws(ServiceError) {
            try host.send(message, of: tag, in: epoch, to: member)
        } catch {
            guard !machine.isOver else { return }
            deliver(.failed(error))
        }
    }

    /// Decides where a computation that takes this long runs.
    /// - Parameters:
    ///   - isAtHand: whether it reads nothing that may have to come from the disk.
    ///   - splits: whether all threads would share it.
    ///   - isAwaited: whether other ranks or the client wait for its result.
    private func place(
        _ time: TimeAmount, _ isAtHand: Bool = true, splits: Bool = false, isAwaited: Bool = false
    ) -> StepWork.Place {
        let loopWork = host.loopWork
        guard isAtHand, loopWork.takes(time, splits: splits) else {
            loopWork.onThreads += 1
            return .threads
        }
        return .loop { body in loopWork.run(isAwaited: isAwaited, body) }
    }

    /// Returns a result to the loop. The machine counts the computation as answered, and then takes a failure of it as
    /// its own.
    private func arrival<Value: Sendable>(
        from place: StepWork.Place,
        failed: @escaping @Sendable (StepExecution, ServiceError) -> StepMachine.Event = { .computationFailed($1) },
        _ deliver: @escaping (StepExecution, Value) -> Void
    ) -> @Sendable (Result<Value, ServiceError>) -> Void {
        let bound = NIOLoopBound((execution: self, deliver: deliver), eventLoop: eventLoop)
        let eventLoop = eventLoop
        let isOnThreads = place.isOnThreads
        let arrive: @Sendable (Result<Value, ServiceError>) -> Void = { result in
            let (execution, deliver) = bound.value
            if isOnThreads { execution.host.loopWork.onThreads -= 1 }
            switch result {
            case .success(let value): deliver(execution, value)
            case .failure(let error): execution.deliver(failed(execution, error))
            }
        }
        // A computation on the loop is a separate task, during which nothing else is in progress.
        return { result in
            if !isOnThreads, eventLoop.inEventLoop { arrive(result) } else { eventLoop.execute { arrive(result) } }
        }
    }
}

private struct WeakExecution {
    weak var execution: StepExecution?
    init(_ execution: StepExecution) { self.execution = execution }
}
