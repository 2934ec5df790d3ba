internal import DCPAttention
internal import DCPCache
internal import DCPClient
internal import DCPCore
internal import DCPRank
internal import DCPStore
internal import DCPTransport
internal import DCPWire
internal import Logging
internal import NIOCore
internal import NIOPosix
internal import ServiceLifecycle

/// The rank daemon: asks the coordinator for the cluster's shape, opens the store, serves, and drains at the end.
struct RankService: Service {
    let configuration: RankConfiguration
    let storeDirectory: String
    let cacheSettings: ShardCache.Settings
    let logger: Logger

    func run() async throws {
        let rank = configuration.rank
        logger.notice("Starting", metadata: ["release": "\(Release.current)", "kernels": "\(KernelSelection.current)"])
        guard let cluster = try await clusterShape() else { return }
        guard rank.value < cluster.ranks else {
            throw ServiceError(
                .invalidConfiguration,
                "\(rank) is outside 0..<\(cluster.ranks), the ranks of the cluster; correct --rank.")
        }
        // On a thread of its own: opening scans the keys of a store that may be large.
        let cache = try await NIOThreadPool.singleton.runIfActive { [storeDirectory, cacheSettings] in
            try ShardCache.open(directory: storeDirectory, rank: rank, cluster: cluster, settings: cacheSettings)
        }
        let statistics = try cache.statistics()
        logger.notice(
            "Store open",
            metadata: [
                "path": "\(storeDirectory)", "store": "\(cache.storeID)", "sequences": "\(statistics.sequences)",
                "tokens": "\(statistics.localTokens)", "blocks": "\(statistics.sealedBlocks)",
                "layout": "\(LayoutFingerprint(cluster))", "durability": "\(cacheSettings.durability.rawValue)",
                "used": "\(statistics.storeUsedByteCount)", "limit": "\(statistics.storeMapByteCount)",
            ])
        if let found = cache.reverification {
            logger.log(
                level: found.damagedSequences.isEmpty ? .notice : .error,
                "Verified the store, in which a sync had failed; what is damaged is not served",
                metadata: [
                    "blocks": "\(found.progress.blocks)", "findings": "\(found.findings.count)",
                    "damaged": "\(found.damagedSequences.map { "\($0.value)" }.joined(separator: ","))",
                ])
        }
        try await serve(cluster, cache, ComputePool(threads: configuration.threads))
    }

    /// Dials until the coordinator answers; nil when the daemon is stopped first.
    private func clusterShape() async throws -> ClusterShape? {
        var hasReported = false
        while !Task.isShuttingDownGracefully {
            do throws(ServiceError) {
                let client = try await Cluster.connect(to: configuration.coordinator)
                let topology = try await client.topology()
                await client.close()
                return topology.shape
            } catch {
                guard error.isRetryable else { throw error }
                if !hasReported {
                    logger.warning("Coordinator not reached, retrying", metadata: ["reason": "\(error.message)"])
                    hasReported = true
                }
                // Between two dials, not for something to happen: nothing tells when a socket will exist.
                try? await cancelWhenGracefulShutdown {
                    try await Task.sleep(for: .nanoseconds(configuration.redialDelay.nanoseconds))
                }
            }
        }
        return nil
    }

    private func serve(_ cluster: ClusterShape, _ cache: ShardCache, _ pool: ComputePool) async throws {
        let eventLoop = MultiThreadedEventLoopGroup.singleton.next()
        let (fatalErrors, fatal) = AsyncStream.makeStream(of: ServiceError.self)
        let server = try await eventLoop.submit { [configuration, logger] in
            NIOLoopBound(
                RankServer(configuration, cluster: cluster, cache: cache, pool: pool, eventLoop: eventLoop) { event in
                    if case .fatal(let error) = event { fatal.yield(error) }
                    RankEventLog(logger: logger).write(event)
                }, eventLoop: eventLoop)
        }.get()
        var failure: (any Error)?
        do {
            try await eventLoop.flatSubmit { server.value.start() }.get()
            // Serves until it is told to stop, or cannot go on.
            failure = await withGracefulShutdownHandler {
                await fatalErrors.first { _ in true }
            } onGracefulShutdown: {
                fatal.finish()
            }
        } catch {
            failure = error
        }
        ServiceManager.stopping()
        logger.notice("Draining", metadata: ["deadline": "\(configuration.drainTimeout.nanoseconds / 1_000_000_000) s"])
        try await eventLoop.flatSubmit { server.value.stop() }.get()
        try await pool.shutDown()
        // What clients have committed last is written before the daemon ends.
        cache.close()
        // Completions of pool and writer still come to the loop and need the server; this comes after all of them.
        try await eventLoop.submit { _ = server.value }.get()
        if let failure { throw failure }
    }
}
