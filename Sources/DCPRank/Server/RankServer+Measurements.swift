// SPDX-License-Identifier: Apache-2.0

internal import DCPCache
package import DCPCore
internal import DCPObservability
package import DCPTransport
internal import DCPWire
package import NIOCore

/// The state of a rank at one moment of its event loop, as far as it is cheap to copy. Its cache and its threads can be
/// queried from any thread.
package struct RankMeasurements: Sendable {
    package var epoch: Epoch
    /// Why steps are refused; nil while they are served.
    package var refusal: ServiceError?
    package var isCoordinatorConnected: Bool
    package var peers: Int
    package var peersConnected: Int
    package var peersSharingMemory: Int
    package var memoryTraffic: SharedRings.Traffic
    /// Open connections of clients.
    package var clients: Int
    package var stepsInFlight: Int
    package var stepByteCount: Int
    package var commitsInFlight: Int
    package var counters: RankCounters
    package var receivedByteCount: UInt64
    package var sentByteCount: UInt64
    /// Number of the last verification, 0 before the first.
    package var verifications: UInt64
    package var isVerifying: Bool
    package var damageFound: Int
    /// Since a canary last went through; nil before the first.
    package var canaryAge: TimeAmount?
    package var refused: RefusedConnections
    /// Seconds since 1970; nil without TLS.
    package var certificateEnd: Int?
}

extension RankServer {
    package var measurements: RankMeasurements {
        eventLoop.preconditionInEventLoop()
        var refusal: ServiceError?
        do throws(ServiceError) { try coordinator.checkServing() } catch { refusal = error }
        let traffic = traffic
        return RankMeasurements(
            epoch: coordinator.epoch, refusal: refusal, isCoordinatorConnected: coordinator.isConnected,
            peers: peers.count, peersConnected: peers.links.count,
            peersSharingMemory: peers.links.count { $0.sharesMemory }, memoryTraffic: memoryTraffic,
            clients: clients.count,
            stepsInFlight: steps.executions.count, stepByteCount: steps.bytes.heldByteCount,
            commitsInFlight: work.commitsInFlight,
            counters: counters, receivedByteCount: traffic.received, sentByteCount: traffic.sent,
            verifications: verification?.number ?? 0, isVerifying: verification?.state == .running,
            damageFound: verification?.damageCount ?? 0, canaryAge: counters.lastCanary.map { eventLoop.now - $0 },
            refused: refusedConnections, certificateEnd: configuration.link.tls?.notAfter)
    }
}
