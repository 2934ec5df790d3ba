// SPDX-License-Identifier: Apache-2.0

public import DCPAttention
internal import DCPCollectives
public import DCPCore
public import DCPWire

/// One step on one rank, as a value: events in, actions out; no async, no clock, no socket.
///
/// Three strands run side by side and meet in the merge:
///
///     queries --all-gather--> context attention --exchange--> merge --> reply
///     new tokens: causal attention of the own heads ----------^          ^
///     append of the owned tokens ----------------------------------------+
///
/// `gathering < attending < exchanging < merging < committing < replied`, and from any of them `failed`. Without a
/// commit the reply follows the merge. Peers may be a phase ahead: each collective takes pieces from the start. The
/// first failure, of this rank or of any other, is the verdict. The client is told, and the rank where it arose tells
/// the whole group, so that no rank waits for a deadline.
public struct StepMachine: Sendable {
    public enum Action: Sendable {
        case sendQuery(QuerySlice, to: Int)
        /// Causal attention of this rank's heads over the step's tokens. Answer with `.newTokensDone`.
        case startNewTokens
        /// Append the tokens that this rank owns to the cache. Answer with `.appended` or `.appendFailed`.
        case startAppend
        /// Attention of all the group's heads over this rank's shard. Answer with `.contextDone`.
        /// The slices are those of all ranks in rank order, or the one replicated slice.
        case startContext([QuerySlice])
        case sendPartial(Partial, to: Int)
        case sendLogSumExp([Double], to: Int)
        /// Multiply the context partial by `exp(own LSE - combined LSE)`. Answer with `.correctionDone`.
        case startCorrection(AttentionStates, lse: [[Double]])
        case sendCorrected([Float], to: Int)
        /// All-to-all: merge the ranks' partials in rank order, then the new tokens. Answer with `.mergeDone`.
        case startMerge([Partial], newTokens: AttentionStates)
        /// Reduce-scatter: add the corrected outputs in rank order, then merge the new tokens. Answer with `.mergeDone`.
        case startReduction([[Float]], lse: [Double], newTokens: AttentionStates)
        /// Commit what the request asks for. Answer with `.committed` or `.commitFailed`.
        case startCommit
        /// The outputs of this rank's heads, `[head][token]`, encoded.
        case reply(EncodedBody)
        /// The verdict, to the client.
        case fail(ServiceError)
        /// The verdict, to the rest of the group; only from the rank where it arose.
        case sendAbort(ServiceError, to: Int)
        /// Without queries: this rank's tokens are in the cache.
        case sendAppended(to: Int)
        /// Roll back those of the step's tokens that are in the cache, and its place in the layer.
        case rollBack
    }

    public enum Event: Sendable {
        /// The layer holds every token before the step's positions.
        case contextReady
        case query(QuerySlice, from: Int)
        case newTokensDone(AttentionStates)
        case appended
        case contextDone(ContextStates)
        case partial(Partial, from: Int)
        case logSumExp([Double], from: Int)
        /// The corrected outputs for each rank's heads, in rank order, and the combined LSE of this rank's heads.
        case correctionDone([[Float]], lse: [Double])
        case corrected([Float], from: Int)
        /// Another rank has appended its tokens of a step without queries.
        case peerAppended(from: Int)
        /// The encoded answer.
        case mergeDone(EncodedBody)
        /// The append failed and left the cache unchanged.
        case appendFailed(ServiceError)
        /// The commit is as durable as the setting demands.
        case committed
        case commitFailed(ServiceError)
        /// Another computation failed, and will give no other answer.
        case computationFailed(ServiceError)
        /// Something else went wrong: the client or a peer is gone, a message could not be sent.
        case failed(ServiceError)
        /// Another rank's verdict.
        case aborted(ServiceError)
        /// The step's deadline passed.
        case expired
    }

    enum Exchanged: Sendable {
        /// No entry has context: there was nothing to exchange.
        case nothing
        case partials([Partial])
        case summands([[Float]], lse: [Double])
    }

    enum Phase: Sendable {
        case gathering
        case attending
        case exchanging
        case merging
        case committing
        case replied
        case failed
    }

    enum Append: Sendable {
        /// The cache already holds the tokens: a repeat, or queries alone.
        case none
        /// For the tokens before the step's own.
        case waiting
        case running
        case done
        case failed
    }

    public let plan: StepPlan
    var phase = Phase.gathering
    var queries: AllGather<QuerySlice>
    var gathered: [QuerySlice]?
    var isContextReady = false
    var partials: AllToAll<Partial>
    var logSumExps: AllGather<[Double]>
    var corrections: ReduceScatter<[Float]>
    var ownLSE: [Double]?
    var contextPartial: AttentionStates?
    /// The result of the exchange, which waits for the new tokens.
    var exchanged: Exchanged?
    var newTokens: AttentionStates?
    var output: EncodedBody?
    var append: Append
    /// Without queries no exchange synchronises the ranks, and each has checked only its own tokens. They wait for each
    /// other here, so that none answers if another refuses.
    var appends: AllGather<InPlace>
    var isInPlaceEverywhere: Bool
    var hasRolledBack = false

    /// Computations that have not answered. The step's memory is needed until this is zero.
    public internal(set) var outstandingCount = 0

    /// What a rank sends when it has appended its tokens.
    struct InPlace: Hashable, Sendable {}

    /// - Parameter appends: false when the step repeats one whose tokens the cache already holds.
    public init(_ plan: StepPlan, appends: Bool) {
        self.plan = plan
        append = appends && plan.appends ? .waiting : .none
        self.appends = AllGather(rank: plan.contextRank, members: plan.members)
        isInPlaceEverywhere = plan.queryMode != .absent
        queries = AllGather(rank: plan.contextRank, members: plan.members)
        partials = AllToAll(rank: plan.contextRank, members: plan.members)
        logSumExps = AllGather(rank: plan.contextRank, members: plan.members)
        corrections = ReduceScatter(rank: plan.contextRank, members: plan.members)
    }

    /// Whether the client has its answer.
    public var isOver: Bool {
        switch phase {
        case .replied, .failed: true
        case .gathering, .attending, .exchanging, .merging, .committing: false
        }
    }

    /// Whether the client has the outputs.
    var isAnswered: Bool {
        if case .replied = phase { return true }
        return false
    }

    /// Whether nothing of the step is left to happen on this rank.
    public var isFinished: Bool { isOver && outstandingCount == 0 }

    /// Begins the step with the queries the client sent.
    public mutating func start(_ own: QuerySlice) -> [Action] {
        // A verdict of the group may arrive before the client's request.
        guard !isOver else { return [] }
        if plan.queryMode == .absent {
            // Only the append is left, or for a repeat only the news that it is done.
            phase = .merging
            output = plan.pendingAnswer.body
            return tellIfInPlace()
        }
        var actions: [Action] = []
        if plan.appends {
            outstandingCount += 1
            actions = [.startNewTokens]
        } else {
            // There are no new tokens: everything visible is in the cache.
            newTokens = .empty(rows: plan.ownHeads.count * plan.tokens, valueDim: plan.attention.valueDim)
        }
        if !plan.hasContext {
            phase = .exchanging
            exchanged = .nothing
            return actions
        }
        switch plan.queryMode {
        case .absent: preconditionFailure("a step without queries has no context")
        case .replicate:
            gathered = [own]
            return actions + startContextIfReady()
        case .gather:
            // Q is sent at once; it waits for no turn and no other step.
            do throws(ServiceError) {
                let gather = try queries.contribute(own)
                return handle(gather) + actions
            } catch {
                return actions + fail(error)
            }
        }
    }

    public mutating func handle(_ event: Event) -> [Action] {
        do throws(ServiceError) {
            return try take(event)
        } catch {
            return fail(error)
        }
    }

    mutating func take(_ event: Event) throws(ServiceError) -> [Action] {
        switch event {
        case .newTokensDone, .appended, .appendFailed, .contextDone, .correctionDone, .mergeDone, .committed,
            .commitFailed, .computationFailed:
            outstandingCount -= 1
        default: break
        }
        precondition(outstandingCount >= 0, "a computation answered twice")
        switch event {
        case .appended: append = .done
        case .appendFailed: append = .failed
        default: break
        }
        // A late append of a failed step leaves tokens that no rank may keep.
        if isOver { return rollBackIfNeeded() }
        switch event {
        case .contextReady:
            isContextReady = true
            return startAppendIfWaiting() + startContextIfReady()
        case .query(let slice, let member):
            try check(slice, from: member)
            return handle(try queries.receive(slice, from: member))
        case .newTokensDone(let states):
            newTokens = states
            return startMergeIfReady()
        case .appended:
            return plan.queryMode == .absent ? tellIfInPlace() : replyIfReady()
        case .peerAppended(let member):
            return handle(try appends.receive(InPlace(), from: member))
        case .contextDone(let states):
            return try startExchange(states)
        case .partial(let partial, let member):
            try check(partial, from: member)
            return handle(try partials.receive(partial, from: member))
        case .logSumExp(let rows, let member):
            guard rows.count == plan.partition.queryHeads * plan.tokens else {
                throw mismatch("\(rows.count) LSE values", "\(plan.partition.queryHeads * plan.tokens)", member)
            }
            return handle(try logSumExps.receive(rows, from: member))
        case .correctionDone(let summands, let lse):
            ownLSE = lse
            return handle(try corrections.contribute(summands))
        case .corrected(let summand, let member):
            let count = plan.ownHeads.count * plan.tokens * plan.attention.valueDim
            guard summand.count == count else { throw mismatch("\(summand.count) outputs", "\(count)", member) }
            return handle(try corrections.receive(summand, from: member))
        case .mergeDone(let answer):
            output = answer
            return replyIfReady()
        case .committed:
            return reply()
        case .commitFailed(let error):
            return end(error)
        case .appendFailed(let error), .computationFailed(let error), .failed(let error):
            throw error
        case .aborted(let error):
            return end(error)
        case .expired:
            throw ServiceError(.deadlineExceeded, "The step's deadline passed while it waited for \(waitingFor).")
        }
    }
}
