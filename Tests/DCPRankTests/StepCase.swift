// SPDX-License-Identifier: Apache-2.0

import DCPAttention
import DCPCore
import DCPRank
import DCPTestKit
import DCPWire
import NIOCore
import Testing

/// One step for a whole head group, and what its computations give: deterministic, different for every rank, with an
/// empty shard on rank 1 and a partly empty one on rank 2.
struct StepCase: Sendable, CustomTestStringConvertible {
    var ranks = 2
    var queryHeads = 4
    var kvHeads = 2
    var exchange = Exchange.allToAll
    var queryMode = StepRequest.QueryMode.gather
    var entries = [
        StepRequest.Entry(sequence: SequenceID(1), position: 7, count: 1),
        StepRequest.Entry(sequence: SequenceID(2), position: 0, count: 1),
    ]
    /// Whether the step is the first to bring its tokens.
    var appends = true
    /// Whether it brings queries alone.
    var queriesAlone = false
    /// Whether something is committed behind it.
    var commits = false

    static let valueDim = 8
    static let keyDim = 8

    var testDescription: String {
        "\(ranks) ranks, \(queryHeads) heads, \(exchange.name), \(queryMode), "
            + (entries.contains { $0.position > 0 } ? "context" : "no context") + (appends ? "" : ", repeat")
            + (queriesAlone ? ", queries alone" : "")
    }

    var tokens: Int { entries.reduce(0) { $0 + $1.count } }
    var partition: HeadPartition { HeadPartition(queryHeads: queryHeads, kvHeads: kvHeads, contextRanks: ranks) }

    func plan(ofRank rank: Int) throws -> StepPlan {
        StepPlan(
            attention: try LayerAttention(
                queryHeads: queryHeads, kvHeads: kvHeads, keyDim: Self.keyDim, values: .own(Self.valueDim), scale: 1),
            kvFormat: .float32, partition: partition,
            layout: try ContextLayout(contextRanks: ranks, interleave: 1, blockTokens: 16), contextRank: rank,
            exchange: exchange, queryMode: queryMode, appends: !queriesAlone, wantsLSE: true, commits: commits,
            entries: entries)
    }

    func machine(ofRank rank: Int) throws -> StepMachine { StepMachine(try plan(ofRank: rank), appends: appends) }

    /// The queries a client sends to a rank: each byte tells the head and the token.
    func queries(ofRank rank: Int) -> QuerySlice {
        let heads = queryMode == .gather ? partition.ownHeads(ofRank: rank) : 0..<queryHeads
        var bytes: [UInt8] = []
        for head in heads {
            for token in 0..<tokens { bytes += [UInt8](repeating: UInt8(head * 16 + token), count: Self.keyDim * 4) }
        }
        return QuerySlice(
            tokens: tokens, heads: heads.count, keyDim: Self.keyDim, dataType: .float32,
            queries: ByteBuffer(bytes: bytes))
    }

    func newTokens(ofRank rank: Int) -> AttentionStates {
        if queriesAlone {
            return .empty(rows: partition.ownHeads(ofRank: rank).count * tokens, valueDim: Self.valueDim)
        }
        return states(rows: partition.ownHeads(ofRank: rank).count * tokens, salt: 1000 + UInt64(rank))
    }

    /// The context partial of a rank's shard, of the queries it was given: other queries give other numbers.
    func context(ofRank rank: Int, _ slices: [QuerySlice]) -> AttentionStates {
        let bytes = slices.flatMap { Array($0.queries.readableBytesView) }
        let salt = bytes.reduce(UInt64(rank) + 1) { ($0 &* 31) &+ UInt64($1) }
        var states = states(rows: queryHeads * tokens, salt: salt)
        for row in 0..<states.rows where rank % 3 == 1 || (rank % 3 == 2 && row % 2 == 0) {
            states.lse[row] = -.infinity
            // What a kernel leaves behind for no tokens is never used (TRAPS 5).
            for index in row * Self.valueDim..<(row + 1) * Self.valueDim { states.outputs[index] = .nan }
        }
        return states
    }

    private func states(rows: Int, salt: UInt64) -> AttentionStates {
        var generator = SeededGenerator(seed: salt)
        return AttentionStates(
            valueDim: Self.valueDim, outputs: generator.floats(rows * Self.valueDim, limit: 3),
            lse: generator.floats(rows, limit: 8).map { Double($0) })
    }

    /// What every rank has to answer, without any exchange; with log-sum-exps as an answer has them.
    func expected() throws -> [AttentionStates] {
        let all = (0..<ranks).map { queries(ofRank: $0) }
        let slices = queryMode == .gather ? all : [all[0]]
        let partials = (0..<ranks).map { context(ofRank: $0, slices) }
        return try (0..<ranks).map { rank in
            let plan = try plan(ofRank: rank)
            var states = newTokens(ofRank: rank)
            if plan.hasContext {
                let own = try AttentionStates.merge(partials.map { $0.slice(rows: plan.rows(ofRank: rank)) })
                states = try AttentionStates.merge([own, states])
            }
            states.lse = states.lse.map { Double(Float($0)) }
            return states
        }
    }

    /// The answer with some states, written in two pieces where it has as many rows.
    func written(_ states: AttentionStates, ofRank rank: Int) throws -> EncodedBody {
        var answer = try plan(ofRank: rank).pendingAnswer
        for rows in [0..<states.rows / 2, states.rows / 2..<states.rows] {
            let some = states.slice(rows: rows)
            answer.append(outputs: some.outputs, lse: some.lse)
        }
        return answer.body
    }

    /// What a client reads in an answer.
    static func states(in answer: EncodedBody) throws -> AttentionStates {
        let result = try answer.reply(to: StepRequest.self)
        func floats(_ buffer: ByteBuffer?) -> [Float] {
            let bytes = buffer.map { Array($0.readableBytesView) } ?? []
            return bytes.withUnsafeBytes { bytes in
                (0..<bytes.count / 4).map { bytes.loadUnaligned(fromByteOffset: $0 * 4, as: Float.self) }
            }
        }
        return AttentionStates(
            valueDim: result.valueDim, outputs: floats(result.outputs), lse: floats(result.lse).map { Double($0) })
    }
}

/// The answer to a computation that a machine has started; nil for an action that starts none.
func answer(to action: StepMachine.Action, of test: StepCase, rank: Int) throws -> StepMachine.Event? {
    switch action {
    case .startNewTokens: return .newTokensDone(test.newTokens(ofRank: rank))
    case .startAppend: return .appended
    case .startCommit: return .committed
    case .startContext(let slices):
        return .contextDone(try test.plan(ofRank: rank).cut(test.context(ofRank: rank, slices)))
    case .startCorrection(let states, let lse):
        let combined = try AttentionStates.combinedLSE(lse)
        let outputs = states.corrected(by: combined)
        let plan = try test.plan(ofRank: rank)
        let slices = (0..<test.ranks).map { member in
            let rows = plan.rows(ofRank: member)
            return Array(outputs[rows.lowerBound * states.valueDim..<rows.upperBound * states.valueDim])
        }
        return .correctionDone(slices, lse: combined.slice(rows: plan.rows(ofRank: rank)).values)
    case .startMerge(let partials, let newTokens):
        let context = partials.isEmpty ? [] : [try AttentionStates.merge(partials.map(\.states))]
        return .mergeDone(try test.written(AttentionStates.merge(context + [newTokens]), ofRank: rank))
    case .startReduction(let summands, let lse, let newTokens):
        let context = AttentionStates(
            valueDim: newTokens.valueDim, outputs: AttentionStates.sum(of: summands), lse: lse)
        return .mergeDone(try test.written(AttentionStates.merge([context, newTokens]), ofRank: rank))
    case .sendQuery, .sendPartial, .sendLogSumExp, .sendCorrected, .sendAbort, .sendAppended, .reply, .fail, .rollBack:
        return nil
    }
}

/// What a message is to the rank it goes to; nil for an action that sends none.
func message(of action: StepMachine.Action, from rank: Int) -> (to: Int, event: StepMachine.Event)? {
    switch action {
    case .sendQuery(let slice, let member): (member, .query(slice, from: rank))
    case .sendPartial(let partial, let member): (member, .partial(partial, from: rank))
    case .sendLogSumExp(let lse, let member): (member, .logSumExp(lse, from: rank))
    case .sendCorrected(let outputs, let member): (member, .corrected(outputs, from: rank))
    case .sendAbort(let error, let member): (member, .aborted(error))
    case .sendAppended(let member): (member, .peerAppended(from: rank))
    case .startNewTokens, .startAppend, .startContext, .startCorrection, .startMerge, .startReduction, .startCommit,
        .reply, .fail, .rollBack:
        nil
    }
}

/// The bits of everything an action carries, so that -0, NaN and order count.
func bits(_ states: AttentionStates) -> [UInt64] {
    states.outputs.map { UInt64($0.bitPattern) } + states.lse.map(\.bitPattern)
}

func bits(_ event: StepMachine.Event) -> [UInt64] {
    switch event {
    case .query(let slice, let member): [0, UInt64(member)] + slice.queries.readableBytesView.map { UInt64($0) }
    case .partial(let partial, let member): [1, UInt64(member)] + bits(partial.states)
    case .logSumExp(let lse, let member): [2, UInt64(member)] + lse.map(\.bitPattern)
    case .corrected(let outputs, let member): [3, UInt64(member)] + outputs.map { UInt64($0.bitPattern) }
    default: [UInt64.max]
    }
}

/// Testing has another type of this name.
typealias Tag = DCPWire.Tag
