// SPDX-License-Identifier: Apache-2.0

public import DCPCore

/// A client's reaction to failures: a value without clock or connection. `Cluster+Resume.swift` drives it.
///
/// An *outage* begins with a retryable failure and ends with the next success. During it the client retries, first
/// immediately and then with growing pauses, until the outage has lasted for the allowed time.
public struct Outages: Sendable {
    /// How long one outage may last. Zero: every failure is final.
    public let allowance: Duration
    /// Outages that ended with a success.
    public private(set) var count = 0
    /// The longest of them.
    public private(set) var longest = Duration.zero
    private var current: Current?

    private struct Current {
        var began: Duration
        var failures: Int
        var first: ServiceError
    }

    /// What follows a failure.
    public enum Decision: Hashable, Sendable {
        /// Not retryable, or the allowance is used up: the error for the caller.
        case giveUp(ServiceError)
        /// Retry after a pause. With `needsTopology` the client first asks the coordinator, which answers when the
        /// cluster is ready, or after `patience`.
        case retry(after: Duration, needsTopology: Bool, patience: Duration)
    }

    package static let pauseMax = Duration.milliseconds(500)

    public init(allowance: Duration) { self.allowance = allowance }

    /// Whether a failure has not been followed by a success yet.
    public var isOut: Bool { current != nil }

    /// The failure that began the outage.
    public var cause: ServiceError? { current?.first }

    /// A call failed.
    /// - Parameter now: since any fixed moment, never backwards.
    public mutating func failed(_ error: ServiceError, at now: Duration) -> Decision {
        guard error.isRetryable, allowance > .zero else { return .giveUp(error) }
        var outage = current ?? Current(began: now, failures: 0, first: error)
        let left = allowance - (now - outage.began)
        guard left > .zero else {
            var final = error
            final.message += " The cluster did not recover within \(allowance); raise --retry-for to wait longer."
            return .giveUp(final)
        }
        outage.failures += 1
        current = outage
        // 0, 10, 20, 40 ... ms: the cluster is often back when the coordinator has answered.
        let exponent = outage.failures - 2
        let pause = exponent < 0 ? .zero : min(.milliseconds(10 << min(exponent, 6)), Self.pauseMax)
        return .retry(
            after: min(pause, left), needsTopology: error.code.concernsMembership, patience: max(left - pause, .zero))
    }

    /// A call that makes progress succeeded: an outage is over.
    /// - Returns: its duration and its first failure, once.
    @discardableResult
    public mutating func succeeded(at now: Duration) -> (duration: Duration, cause: ServiceError)? {
        guard let outage = current else { return nil }
        current = nil
        count += 1
        longest = max(longest, now - outage.began)
        return (now - outage.began, outage.first)
    }
}

extension ServiceError.Code {
    /// Whether a change of the membership may explain it, so that the topology must be fetched again.
    var concernsMembership: Bool {
        switch self {
        case .notReady, .staleEpoch, .rankUnavailable, .shuttingDown, .unreachable, .deadlineExceeded: true
        default: false
        }
    }
}
