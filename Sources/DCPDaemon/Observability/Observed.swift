internal import DCPObservability

/// What the HTTP endpoint asks of a daemon. Any thread; answers while the daemon starts and drains too.
protocol Observed: Sendable {
    func metrics() async -> Exposition
    func readiness() async -> HealthVerdict
    func health() async -> HealthVerdict
}
