// SPDX-License-Identifier: Apache-2.0

public import DCPCore
public import DCPTransport

/// Going on after failures.
extension Cluster {
    /// Connects to a coordinator that may be down for a while.
    /// - Throws: `.unreachable` when nobody has listened there for as long as is allowed.
    public static func connect(
        to coordinator: Endpoint, retryFor allowance: Duration, tls: TLSCredentials? = nil,
        timeouts: Timeouts = Timeouts()
    ) async throws(ServiceError) -> Cluster {
        var outages = Outages(allowance: allowance)
        while true {
            let failure: ServiceError
            do throws(ServiceError) {
                return try await connect(to: coordinator, tls: tls, timeouts: timeouts)
            } catch {
                failure = error
            }
            switch outages.failed(failure, at: now) {
            case .giveUp(let error): throw error
            // The pause between two attempts: there is no event for a new listener at an address.
            case .retry(let pause, _, _): try? await Task.sleep(for: pause)
            }
            guard !Task.isCancelled else { throw failure }
        }
    }

    /// Executes the decision of `Outages` about a failure: returns when it is time to retry.
    ///
    /// - Parameter error: what the last call threw.
    /// - Throws: the error for the caller if the outage lasts too long; `.stepAborted` if the task was cancelled.
    public nonisolated func waitOut(_ error: ServiceError, _ outages: inout Outages) async throws(ServiceError) {
        var failure = error
        while true {
            switch outages.failed(failure, at: Self.now) {
            case .giveUp(let error): throw error
            case .retry(let pause, let needsTopology, let patience):
                // The pause between two attempts: there is no event for a daemon that can answer again.
                if pause > .zero { try? await Task.sleep(for: pause) }
                guard !Task.isCancelled else {
                    throw ServiceError(.stepAborted, "The client was cancelled during an outage. \(failure.message)")
                }
                guard needsTopology else { return }
                do throws(ServiceError) {
                    _ = try await readyTopology(wait: patience)
                    return
                } catch {
                    failure = error
                }
            }
        }
    }

    /// Runs a call that may be repeated until it succeeds or the outages give up.
    public nonisolated func persistently<Value: Sendable>(
        _ outages: inout Outages, _ body: @Sendable () async throws(ServiceError) -> Value
    ) async throws(ServiceError) -> Value {
        while true {
            let failure: ServiceError
            do throws(ServiceError) {
                let value = try await body()
                outages.succeeded(at: Self.now)
                return value
            } catch {
                failure = error
            }
            try await waitOut(failure, &outages)
        }
    }

    /// After a failed step or commit: waits until the cluster serves again, makes the ranks agree, and returns where to
    /// continue.
    ///
    /// This does not end the outage: call `outages.succeeded(at:)` after the next successful step or commit.
    /// - Parameters:
    ///   - answered: the length up to which the caller has answers in all layers. Ranks drop tokens beyond it, so that
    ///     they are sent again and answered. Tokens below it that a rank has lost must also be sent again; the same
    ///     steps give the same bits.
    /// - Returns: the length of the sequence in all layers: at most `answered`, at least the committed length.
    /// - Throws: the error for the caller, when the outages give up; `.claimed` when another client has taken the sequence
    ///   over.
    public nonisolated func resume(
        _ sequence: SequenceHandle, after error: ServiceError, answered: Int, _ outages: inout Outages
    ) async throws(ServiceError) -> SequenceProgress {
        var failure = error
        while true {
            try await waitOut(failure, &outages)
            do throws(ServiceError) {
                return try await resumeOwn(sequence, atMost: answered)
            } catch {
                failure = error
            }
        }
    }

    /// Time for `Outages`: monotonic.
    public nonisolated static var now: Duration { ContinuousClock.now - origin }

    private static let origin = ContinuousClock.now
}
