// SPDX-License-Identifier: Apache-2.0

internal import DCPCache
internal import DCPCore
internal import DCPObservability
internal import DCPRank
internal import DCPStore
internal import DCPTransport
internal import DCPWire
internal import Foundation
internal import NIOCore

/// A rank at its HTTP endpoint.
struct RankObserved: Observed {
    /// The data for a request: the loop's measurements, and the store and the threads, which any thread can query.
    struct Parts: Sendable {
        var measurements: RankMeasurements
        var cache: ShardCache
        var progress: ComputeProgress
    }

    typealias Serving = (server: RankServer, cache: ShardCache, pool: ComputePool)

    let rank: RankIndex
    let threads: Int
    let canaryInterval: Duration?
    let process: ProcessFigures
    let observation = Observation<Serving, Parts> {
        Parts(measurements: $0.server.measurements, cache: $0.cache, progress: $0.pool.progress)
    }

    func readiness() async -> HealthVerdict {
        do throws(ServiceError) {
            return verdict(try await observation.measurements().measurements)
        } catch {
            return verdict(refusal: error.message, epoch: nil, canaryAge: nil)
        }
    }

    func health() async -> HealthVerdict {
        await readiness().health(failure: nil, runningSeconds: process.age / .seconds(1))
    }

    private func verdict(_ measured: RankMeasurements) -> HealthVerdict {
        verdict(refusal: measured.refusal?.message, epoch: measured.epoch.value, canaryAge: measured.canaryAge)
    }

    private func verdict(refusal: String?, epoch: UInt64?, canaryAge: TimeAmount?) -> HealthVerdict {
        HealthVerdict(
            readiness: refusal, rank: Int(rank.value), release: Release.current, epoch: epoch,
            canary: HealthVerdict.Canary(
                intervalSeconds: canaryInterval.map { $0 / .seconds(1) },
                ageSeconds: canaryAge.map { Double($0.nanoseconds) / 1e9 }))
    }

    func metrics() async -> Exposition {
        var exposition = Exposition(labels: [("rank", "\(rank.value)")])
        process.add(to: &exposition)
        exposition.add(.canaryInterval, canaryInterval.map { $0 / .seconds(1) } ?? 0)
        exposition.add(.computeThreads, threads)
        do throws(ServiceError) {
            let parts = try await observation.measurements()
            add(parts.measurements, to: &exposition)
            add(parts.progress, to: &exposition)
            try add(parts.cache, to: &exposition)
        } catch {
            // While starting, stopping, stuck, or without its store: reports the known figures, and that the rank does
            // not serve.
            if !exposition.contains(.serving) { exposition.add(.serving, 0) }
        }
        return exposition
    }

    private func add(_ measured: RankMeasurements, to exposition: inout Exposition) {
        let counters = measured.counters
        exposition.add(.epoch, measured.epoch.value)
        exposition.add(.serving, measured.refusal == nil ? 1 : 0)
        exposition.add(.coordinatorConnected, measured.isCoordinatorConnected ? 1 : 0)
        exposition.add(.peers, measured.peers)
        exposition.add(.peersConnected, measured.peersConnected)
        exposition.add(.peersSharingMemory, measured.peersSharingMemory)
        exposition.add(.peersLost, counters.peersLost)
        exposition.add(.claimsEnded, counters.claimsEnded)
        exposition.add(.connections, measured.clients)
        exposition.add(.framesRefused, counters.framesRefused)
        exposition.add(measured.refused, certificateEnd: measured.certificateEnd)
        exposition.add(.receivedBytes, measured.receivedByteCount)
        exposition.add(.sentBytes, measured.sentByteCount)
        exposition.add(.memoryPayloads, measured.memoryTraffic.payloads)
        exposition.add(.memoryBytes, measured.memoryTraffic.byteCount)
        exposition.add(.memoryFallbacks, measured.memoryTraffic.fallbacks)
        exposition.add(
            .stepDuration, [(["decode"], counters.decodeSteps), (["prefill"], counters.prefillSteps)])
        exposition.add(.stepCompute, counters.stepCompute)
        exposition.add(.stepExchange, counters.stepExchange)
        exposition.add(.stepsAborted, counters.stepsAborted)
        exposition.add(.stepsInFlight, measured.stepsInFlight)
        exposition.add(.stepBytesInFlight, measured.stepByteCount)
        exposition.add(.tokens, counters.tokens)
        exposition.add(.commitDuration, counters.commits)
        exposition.add(.commitsFailed, counters.commitsFailed)
        exposition.add(.commitsInFlight, measured.commitsInFlight)
        let matches = counters.prefixMatches
        let results = [("found", matches.found.count), ("missed", matches.missed), ("failed", matches.failed)]
        exposition.add(.prefixMatches, results.map { ([$0.0], Double($0.1)) })
        exposition.add(.prefixMatchTokens, matches.found)
        exposition.add(.verifications, measured.verifications)
        exposition.add(.verificationRunning, measured.isVerifying ? 1 : 0)
        exposition.add(.verificationDamage, measured.damageFound)
        let age = measured.canaryAge.map { Double($0.nanoseconds) / 1e9 }
        exposition.add(.canaryLast, age.map { Date().timeIntervalSince1970 - $0 } ?? 0)
    }

    private func add(_ progress: ComputeProgress, to exposition: inout Exposition) {
        exposition.add(.computeWaiting, progress.waiting)
        exposition.add(.computeRunning, progress.running)
        exposition.add(.computeFinished, progress.finished)
    }

    /// - Throws: when the store is closed meanwhile, or out of readers.
    private func add(_ cache: ShardCache, to exposition: inout Exposition) throws(ServiceError) {
        // First: a store that has failed may refuse to be read, which is when its condition matters.
        let condition = Self.name(of: cache.health.condition)
        exposition.add(
            .storeCondition, ["writable", "full", "refused", "failed"].map { ([$0], $0 == condition ? 1 : 0) })
        exposition.add(.storeDeleting, cache.doomedByteCount)
        let statistics = try cache.statistics()
        let capacity = statistics.storeMapByteCount
        exposition.add(.storeUsed, statistics.storeUsedByteCount)
        exposition.add(.storeFile, statistics.storeFileByteCount)
        exposition.add(.storeLimit, capacity)
        exposition.add(.storeHigh, cache.settings.watermarks.highByteCount(capacity: capacity))
        exposition.add(.storeLow, cache.settings.watermarks.lowByteCount(capacity: capacity))
        exposition.add(.storeTransactions, statistics.transactionsCommitted)
        exposition.add(.storeReaders, statistics.readers)
        exposition.add(.sequences, statistics.sequences)
        exposition.add(.committedTokens, statistics.localTokens)
        exposition.add(.sealedBlocks, statistics.sealedBlocks)
        exposition.add(.piecedBlocks, statistics.piecedBlocks)
        exposition.add(.openBlockBytes, statistics.memoryByteCount)
        exposition.add(.residentSequences, statistics.residentSequences)
        exposition.add(.indexBytes, statistics.indexByteCount)
        exposition.add(.spareBlockBytes, statistics.spareByteCount)
        exposition.add(.uncommittedBytes, statistics.uncommittedByteCount)
        exposition.add(.spilledBytes, statistics.spilledByteCount)
        exposition.add(.spilledBlocks, statistics.blocksSpilled)
        exposition.add(.uncommittedLimit, cache.settings.uncommittedByteCountMax)
    }

    private static func name(of condition: StoreCondition) -> String {
        switch condition {
        case .writable: "writable"
        case .full: "full"
        case .refused: "refused"
        case .failed: "failed"
        }
    }
}
