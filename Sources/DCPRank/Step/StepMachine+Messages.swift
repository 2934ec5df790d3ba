// SPDX-License-Identifier: Apache-2.0

internal import DCPAttention
internal import DCPCore
internal import DCPWire
internal import NIOCore

/// What the machines of a group send each other, as messages.
extension StepMachine {
    /// What an action sends, and to which rank of the group; nil for one that sends nothing.
    func message(of action: Action) -> (message: Message, member: Int)? {
        switch action {
        case .sendQuery(let slice, let member): (.query(slice), member)
        case .sendPartial(let partial, let member):
            (
                .partial(
                    PartialSlice(
                        tokens: plan.tokens, heads: plan.partition.ownHeads(ofRank: member).count,
                        valueDim: partial.valueDim, outputs: partial.outputs, lse: partial.lse)), member
            )
        case .sendLogSumExp(let lse, let member):
            (
                .logSumExp(
                    LogSumExps(
                        tokens: plan.tokens, heads: plan.partition.queryHeads, lse: ByteBuffer(doubles: lse[...]))),
                member
            )
        case .sendCorrected(let outputs, let member):
            (
                .corrected(
                    CorrectedSlice(
                        tokens: plan.tokens, heads: plan.partition.ownHeads(ofRank: member).count,
                        valueDim: plan.attention.valueDim, outputs: ByteBuffer(floats: outputs[...]))), member
            )
        case .sendAbort(let error, let member): (.abort(error), member)
        case .sendAppended(let member): (.appended, member)
        case .startNewTokens, .startAppend, .startContext, .startCorrection, .startMerge, .startReduction, .startCommit,
            .reply, .fail, .rollBack:
            nil
        }
    }

    /// Whether a message is one that ranks of a group send each other.
    static func isFromGroup(_ message: Message) -> Bool {
        switch message {
        case .query, .partial, .logSumExp, .corrected, .abort, .appended: true
        default: false
        }
    }

    /// What a message of another rank of the group tells a step.
    static func event(of message: Message, from member: Int) -> Event {
        switch message {
        case .query(let slice): .query(slice, from: member)
        case .partial(let slice):
            .partial(Partial(valueDim: slice.valueDim, outputs: slice.outputs, lse: slice.lse), from: member)
        case .logSumExp(let rows): .logSumExp(rows.lse.doubles, from: member)
        case .corrected(let slice): .corrected(slice.outputs.floats, from: member)
        case .appended: .peerAppended(from: member)
        case .abort(let error): .aborted(error)
        default: preconditionFailure("not a message between ranks of a step: \(message.type)")
        }
    }
}
