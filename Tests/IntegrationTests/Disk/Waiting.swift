// SPDX-License-Identifier: Apache-2.0

import DCPClient
import DCPCore
import DCPWire

extension Cluster {
    /// Asks the ranks for their status until it is as wanted: it changes when a rank hears of another's store, which no
    /// client is told of. Ends with the test's time limit.
    func statuses(until isWanted: ([RankStatus]) -> Bool) async throws -> [RankStatus] {
        while true {
            let statuses = try await rankStatuses()
            if isWanted(statuses) { return statuses }
            try Task.checkCancellation()
        }
    }

    /// Plays a trace in steps of `stride` tokens, each committed, as far as the stores take it.
    /// - Returns: how many tokens are committed, and the refusal.
    func fill(_ trace: Trace, stride: Int, on sequence: SequenceHandle, from start: Int = 0)
        async throws(ServiceError) -> (committed: Int, refusal: ServiceError?)
    {
        var position = start
        while position + stride <= trace.tokens {
            do throws(ServiceError) {
                for layer in 0..<trace.shape.layers {
                    _ = try await step(trace, position..<position + stride, layer: layer, on: sequence)
                }
                try await commit(sequence, position + stride)
            } catch {
                guard error.code == .storeFull else { throw error }
                return (position, error)
            }
            position += stride
        }
        return (position, nil)
    }
}
