// SPDX-License-Identifier: Apache-2.0

internal import DCPCache
internal import DCPCore
internal import DCPTransport
internal import DCPWire
internal import NIOCore

/// Shared state of the steps in flight: memory, tokens that arrive, tokens that are rolled back.
extension RankServer {
    /// Whether there is memory for a step: its tensors, all ranks' queries and the partials in Float32.
    /// - Returns: the number of those bytes.
    /// - Throws: `.overloaded` over the budget, `.invalidRequest` for an answer that no frame could hold.
    func checkRoom(for request: StepRequest, _ plan: StepPlan) throws(ServiceError) -> Int {
        let resultByteCount = plan.ownHeads.count * plan.tokens * (plan.attention.valueDim + 1) * 4
        let limit = configuration.link.frameLimits.payloadByteCountMax
        guard resultByteCount <= limit else {
            throw ServiceError(
                .invalidRequest,
                "The answer to \(plan.tokens) tokens would take \(resultByteCount) bytes, but the limit of a frame is "
                    + "\(limit); send fewer tokens in one step (dcpctl submit --chunk).")
        }
        let byteCount = plan.byteCount(of: request, threads: pool.threads)
        guard steps.bytes.fits(byteCount) else {
            throw ServiceError(
                .overloaded,
                "The steps in flight hold \(steps.bytes.heldByteCount) bytes, this one needs \(byteCount) and the limit is "
                    + "\(steps.bytes.byteCountMax); try again when some have ended.")
        }
        return byteCount
    }

    /// Tokens of a step are in the cache: later steps may continue.
    func appended(_ entries: [StepRequest.Entry], layer: Int) {
        for entry in entries { cursors.appended(entry, layer: layer) }
        // Only those that wait for it: one step's entries may be thousands.
        let ready = steps.inOrder {
            Int($0.tag.layer) == layer && !$0.isContextReady && isContextReady($0.request, layer: layer)
        }
        for execution in ready { execution.deliver(.contextReady) }
    }

    func isContextReady(_ request: StepRequest, layer: Int) -> Bool {
        request.entries.allSatisfy { entry in
            cursors.holds(
                entry.contextEnd(appends: request.appends), of: entry.sequence, layer: layer,
                length: cache.layer(layer, of: entry.sequence)?.length.value ?? 0)
        }
    }

    /// Whether the pages of all that a step sees are in memory, since another has just read them.
    func hasRecentlyRead(_ plan: StepPlan, layer: Int) -> Bool {
        let now = eventLoop.now
        return plan.entries.allSatisfy { entry in
            let first = plan.attention.visibility.first(seenFrom: entry.position)
            return recentContexts.holds(entry.sequence, layer: layer, from: first, at: now)
        }
    }

    func hasRead(_ plan: StepPlan, layer: Int) {
        let now = eventLoop.now
        for entry in plan.entries {
            let first = plan.attention.visibility.first(seenFrom: entry.position)
            recentContexts.note(entry.sequence, layer: layer, from: first, at: now)
        }
    }

    /// Takes an aborted step's tokens back, and with them the steps that were built on them.
    func rollBack(_ entries: [StepRequest.Entry], layer: Int) {
        for entry in entries {
            do throws(ServiceError) {
                // A step whose append failed or never began has nothing in the cache.
                let start = Position(entry.position)
                if let found = cache.layer(layer, of: entry.sequence), found.length > start {
                    try cache.rewind(sequence: entry.sequence, layer: layer, length: start)
                }
            } catch {
                // Closed meanwhile, or committed: the cache alone knows where the layer ends.
                cursors.forget(entry.sequence)
            }
            cursors.rolledBack(entry, layer: layer)
            let error = ServiceError(
                .stepAborted,
                "The step builds on tokens from position \(entry.position) of \(entry.sequence), whose step was "
                    + "aborted; send them again.")
            let built = steps.inOrder { execution in
                let appends = execution.request.appends
                return Int(execution.tag.layer) == layer
                    && execution.request.entries.contains {
                        $0.sequence == entry.sequence && $0.contextEnd(appends: appends) > entry.position
                    }
            }
            for execution in built { execution.deliver(.failed(error)) }
        }
    }

    /// Ends every step that touches a sequence, before something else changes it.
    func abortSteps(on sequence: SequenceID, _ error: ServiceError) {
        for execution in steps.inOrder({ $0.touches(sequence) }) {
            execution.deliver(.failed(error))
        }
    }

    /// A step that the ranks of a group do each for itself does not need them.
    func abortExchanges(_ error: ServiceError) {
        for execution in steps.inOrder({ $0.plan.needsGroup }) {
            execution.deliver(.failed(error))
        }
    }

    func abortAllSteps(_ error: ServiceError) {
        for execution in steps.inOrder({ _ in true }) { execution.deliver(.failed(error)) }
    }
}
