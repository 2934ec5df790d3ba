// SPDX-License-Identifier: Apache-2.0

internal import DCPCoordinator
internal import DCPCore
internal import DCPObservability
internal import DCPWire

/// The coordinator at its HTTP endpoint.
struct CoordinatorObserved: Observed {
    let process: ProcessFigures
    let canaryInterval: Duration?
    let canaries: CanaryRecord
    let observation = Observation<CoordinatorServer, CoordinatorMeasurements> { $0.measurements }

    func readiness() async -> HealthVerdict {
        do throws(ServiceError) {
            let measured = try await observation.measurements()
            return verdict(
                refusal: measured.reason.isEmpty ? nil : "the cluster is not ready: \(measured.reason)",
                epoch: measured.epoch.value)
        } catch {
            return verdict(refusal: error.message, epoch: nil)
        }
    }

    func health() async -> HealthVerdict {
        await readiness().health(failure: canaries.failure, runningSeconds: process.age / .seconds(1))
    }

    private func verdict(refusal: String?, epoch: UInt64?) -> HealthVerdict {
        HealthVerdict(
            readiness: refusal, rank: nil, release: Release.current, epoch: epoch,
            canary: HealthVerdict.Canary(
                intervalSeconds: canaryInterval.map { $0 / .seconds(1) },
                ageSeconds: canaries.age.map { $0 / .seconds(1) }))
    }

    func metrics() async -> Exposition {
        var exposition = Exposition()
        process.add(to: &exposition)
        exposition.add(.canaryInterval, canaryInterval.map { $0 / .seconds(1) } ?? 0)
        canaries.add(to: &exposition)
        do throws(ServiceError) {
            add(try await observation.measurements(), to: &exposition)
        } catch {
            // While starting, stopping or stuck: reports the known figures, and that the cluster cannot be used.
            exposition.add(.clusterReady, 0)
        }
        return exposition
    }

    private func add(_ measured: CoordinatorMeasurements, to exposition: inout Exposition) {
        let counters = measured.counters
        exposition.add(.epoch, measured.epoch.value)
        exposition.add(.clusterReady, measured.reason.isEmpty ? 1 : 0)
        exposition.add(.clusterRanks, measured.ranks.count)
        exposition.add(.rankRegistered, measured.ranks.map { (["\($0.rank.value)"], $0.isPresent ? 1 : 0) })
        exposition.add(
            .ranksLost, measured.ranks.map { (["\($0.rank.value)"], Double(counters.ranksLost[$0.rank] ?? 0)) })
        exposition.add(.storeMark, measured.ranks.map { (["\($0.rank.value)"], Double($0.mark)) })
        exposition.add(
            .storesRefused,
            measured.ranks.flatMap { rank, _, _ in
                [
                    (["\(rank.value)", "older_store"], Double(counters.olderStores[rank] ?? 0)),
                    (["\(rank.value)", "second_holder"], Double(counters.secondHolders[rank] ?? 0)),
                ]
            })
        exposition.add(.cutSequences, counters.cuts.sequences)
        exposition.add(.cutTokens, counters.cuts.tokens)
        exposition.add(.models, measured.models)
        exposition.add(.directorySequences, measured.sequences)
        exposition.add(.pinnedSequences, measured.pinned)
        exposition.add(
            .evictions,
            [(["room"], Double(counters.evictions.room)), (["age"], Double(counters.evictions.age))])
        exposition.add(.operationsFailed, counters.operationsFailed)
        exposition.add(.connections, measured.connections)
        exposition.add(.framesRefused, counters.framesRefused)
        exposition.add(measured.refused, certificateEnd: measured.certificateEnd)
    }
}
