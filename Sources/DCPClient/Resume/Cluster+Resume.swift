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
            // Between two dials: nothing tells when somebody listens at an address.
            case .retry(let pause, _, _): try? await Task.sleep(for: pause)
            }
            guard !Task.isCancelled else { throw failure }
        }
    }

    /// Does what the outages decide about a failure: returns when it is time to try again.
    ///
    /// - Parameter error: what the last call threw.
    /// - Throws: the error for the caller, when the outages give up; `.stepAborted` when the task was cancelled.
    public nonisolated func waitOut(_ error: ServiceError, _ outages: inout Outages) async throws(ServiceError) {
        var failure = error
        while true {
            switch outages.failed(failure, at: Self.now) {
            case .giveUp(let error): throw error
            case .retry(let pause, let needsTopology, let patience):
                // Between two attempts: nothing tells when a daemon that was refused or full will answer again.
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

    /// After a step or a commit failed: waits until the cluster serves again, makes the ranks agree, and tells from
    /// where to send again.
    ///
    /// The outage is not over by that: call `outages.succeeded(at:)` after the next step or commit that succeeds.
    /// - Parameters:
    ///   - answered: up to where the caller has answers in all layers. Tokens that ranks hold beyond are given up, so that
    ///     they are sent again and answered; those below that a rank has lost have to be sent again, and the same steps
    ///     give the same bits.
    /// - Returns: where the sequence ends now, in all layers: at most `answered`, at least the committed length.
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
