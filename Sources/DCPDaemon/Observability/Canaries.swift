// SPDX-License-Identifier: Apache-2.0

internal import DCPClient
internal import DCPCore
internal import DCPTransport
internal import Logging

/// Sends a canary through all ranks every so often, as any client would: over the coordinator's own endpoint.
struct Canaries: Sendable {
    let interval: Duration
    let coordinator: Endpoint
    /// The coordinator's own certificate, which passes as a client's.
    let tls: TLSCredentials?
    let record: CanaryRecord
    let log: DaemonLog

    /// For a step and for any request of a canary. A cluster that takes longer is not well.
    private static let timeout = Duration.seconds(10)

    /// Runs until its task is cancelled. A running canary is then not reported.
    func run() async {
        var cluster: Cluster?
        while !Task.isCancelled {
            cluster = await send(over: cluster)
            try? await Task.sleep(for: interval)
        }
        await cluster?.close()
    }

    /// - Parameter known: a connection of before; what it needs anew it asks for by itself.
    private func send(over known: Cluster?) async -> Cluster? {
        var cluster = known
        let began = ContinuousClock.now
        do throws(ServiceError) {
            if cluster == nil {
                cluster = try await Cluster.connect(
                    to: coordinator, tls: tls,
                    timeouts: Cluster.Timeouts(step: Self.timeout, request: Self.timeout))
            }
            guard let cluster else { preconditionFailure("connected above") }
            let report = try await cluster.lastingCanary()
            if record.succeeded(after: .now - began) {
                log.write(.canaryFailing, .notice, "Canaries succeed again", ["epoch": "\(report.epoch.value)"])
            }
        } catch {
            guard !Task.isCancelled else { return cluster }
            if record.failed(error) {
                // While the cluster is incomplete, the membership's own entries report it.
                log.write(
                    .canaryFailing, error.code == .notReady ? .info : .warning,
                    "A canary failed, continuing with the next",
                    ["error": "\(error.code)", "reason": "\(error.message)"])
            }
        }
        return cluster
    }
}
