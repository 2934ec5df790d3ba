// SPDX-License-Identifier: Apache-2.0

internal import DCPObservability

/// The HTTP endpoint's interface to a daemon. Any thread; it also answers while the daemon starts and drains.
protocol Observed: Sendable {
    func metrics() async -> Exposition
    func readiness() async -> HealthVerdict
    func health() async -> HealthVerdict
}
