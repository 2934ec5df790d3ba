// SPDX-License-Identifier: Apache-2.0

internal import DCPAttention
internal import DCPCollectives
internal import DCPCore
internal import DCPWire

/// How a step fails, and the checks that can fail it.
extension StepMachine {
    /// A failure of this rank, which it tells the group.
    mutating func fail(_ error: ServiceError) -> [Action] {
        guard !isOver else { return [] }
        let aborts = (0..<plan.members).filter { $0 != plan.contextRank }.map { Action.sendAbort(error, to: $0) }
        return aborts + end(error)
    }

    /// Once a commit has begun the tokens stay, whatever becomes of the answer, as with a separate commit request.
    mutating func end(_ error: ServiceError) -> [Action] {
        if case .committing = phase { hasRolledBack = true }
        phase = .failed
        gathered = nil
        contextPartial = nil
        exchanged = nil
        newTokens = nil
        output = nil
        return rollBackIfNeeded() + [.fail(error)]
    }

    mutating func rollBackIfNeeded() -> [Action] {
        guard case .failed = phase, !hasRolledBack else { return [] }
        switch append {
        case .none, .running: return []
        case .waiting, .done, .failed:
            hasRolledBack = true
            return [.rollBack]
        }
    }

    var isInPlace: Bool {
        switch append {
        case .none, .done: true
        case .waiting, .running, .failed: false
        }
    }

    func check(_ slice: QuerySlice, from member: Int) throws(ServiceError) {
        let heads = plan.partition.ownHeads(ofRank: member).count
        guard slice.tokens == plan.tokens, slice.heads == heads, slice.keyDim == plan.attention.keyDim else {
            throw mismatch(
                "queries [\(slice.heads), \(slice.tokens), \(slice.keyDim)]",
                "[\(heads), \(plan.tokens), \(plan.attention.keyDim)]", member)
        }
    }

    func check(_ partial: Partial, from member: Int) throws(ServiceError) {
        let rows = plan.ownHeads.count * plan.tokens
        guard partial.rows == rows, partial.valueDim == plan.attention.valueDim else {
            throw mismatch(
                "outputs of \(partial.rows) x \(partial.valueDim)", "\(rows) x \(plan.attention.valueDim)", member)
        }
    }

    func mismatch(_ got: String, _ expected: String, _ member: Int) -> ServiceError {
        ServiceError(
            .protocolViolation,
            "Context rank \(member) sent \(got) for a step that needs \(expected): it was given another step under the "
                + "same tag. Send each step to all ranks alike.")
    }

    /// Names the ranks whose pieces are missing, for readers of the log.
    var waitingFor: String {
        func ranks(_ missing: [Int], _ what: String) -> String {
            "the \(what) of context rank " + missing.map(String.init).joined(separator: ", ")
        }
        switch phase {
        case .gathering:
            if !isContextReady { return "the steps before it on the same layer" }
            return ranks(queries.missing, "queries")
        case .attending: return "its own attention over the context"
        case .exchanging where exchanged != nil: return "its own attention over the new tokens"
        case .exchanging:
            switch plan.exchange {
            case .allToAll: return ranks(partials.missing, "partials")
            case .allGatherReduceScatter:
                return contextPartial != nil
                    ? ranks(logSumExps.missing, "LSE") : ranks(corrections.missing, "corrected outputs")
            }
        case .merging where !isInPlace: return "its own append"
        case .merging where !isInPlaceEverywhere: return ranks(appends.missing, "append")
        case .merging: return "its own merge"
        case .committing: return "its own commit"
        case .replied, .failed: return "nothing"
        }
    }
}
