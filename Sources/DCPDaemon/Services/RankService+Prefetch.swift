// SPDX-License-Identifier: Apache-2.0

internal import DCPAttention
internal import DCPCore
internal import Logging
internal import NIOPosix

extension RankService {
    /// How kernels prefetch on this machine: as `DCP_KERNELS_AHEAD` says, as earlier starts of this store found, or as
    /// is measured now, in at most 0.3 s. What does not fit is measured at the next start.
    func choosePrefetch() async throws {
        if let forced = try Prefetch.forced() {
            PrefetchTable.current = PrefetchTable(forced)
            return logger.notice(
                "Kernels prefetch as set in the environment", metadata: [Prefetch.variable: "\(forced)"])
        }
        guard PrefetchTrials.areUseful() else { return }
        let file = PrefetchFile(store: settings.storeDirectory, kernels: AttentionKernels.chosen.name)
        let known = file.read() ?? PrefetchTrials()
        guard !known.areComplete else {
            PrefetchTable.current = known.table
            return logger.info("Kernels prefetch as measured at an earlier start", metadata: metadata(known))
        }
        // On a thread that may block.
        let trials = try await NIOThreadPool.singleton.runIfActive { try PrefetchTrials.run(after: known) }
        PrefetchTable.current = trials.table
        logger.notice("Kernels prefetch as measured now", metadata: metadata(trials))
        do { try file.write(trials) } catch {
            logger.warning(
                "The measured prefetch setting cannot be stored, measuring again at the next start",
                metadata: ["reason": "\(error)"])
        }
    }

    private func metadata(_ trials: PrefetchTrials) -> Logger.Metadata {
        Dictionary(
            uniqueKeysWithValues: trials.trials.map { ("\($0.format.name)-\($0.rows)-rows", "\($0.figures)") })
    }
}
