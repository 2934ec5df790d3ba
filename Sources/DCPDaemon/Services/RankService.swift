// SPDX-License-Identifier: Apache-2.0

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
internal import Synchronization

/// The rank daemon: asks the coordinator for the cluster's shape, opens the store, serves, and drains at the end.
struct RankService: DaemonService {
    let settings: RankSettings
    let log: DaemonLog
    let reload: Reload

    let observed: RankObserved

    init(settings: RankSettings, log: DaemonLog, reload: Reload) {
        self.settings = settings
        self.log = log
        self.reload = reload
        observed = RankObserved(
            rank: settings.rank.rank, threads: settings.rank.threads,
            canaryInterval: settings.observability.canaryInterval,
            process: ProcessFigures(kernels: "\(KernelSelection.current)"))
    }

    var companions: [any Service] {
        settings.observability.http.map { [HTTPService(address: $0, observed: observed, log: log)] } ?? []
    }

    private var configuration: RankConfiguration { settings.rank }
    var logger: Logger { log.logger }

    func apply(_ configuration: Configuration) {
        // The drain timeout is read when it is needed.
        log.set(level: configuration[RankKeys.table.logLevel])
        log.reload(settings.rank.link.tls, configuration, RankKeys.table.access)
    }

    func run() async throws {
        let rank = configuration.rank
        FaultReport.report()
        logger.notice("Starting", metadata: ["release": "\(Release.current)", "kernels": "\(KernelSelection.current)"])
        observed.observation.isStarting("waiting for the coordinator")
        guard let cluster = try await clusterShape() else { return }
        guard rank.value < cluster.ranks else {
            throw ServiceError(
                .invalidConfiguration,
                "\(rank) is not in the cluster, which has ranks 0..<\(cluster.ranks); correct --rank.")
        }
        let eventLoop = MultiThreadedEventLoopGroup.singleton.next()
        observed.observation.isStarting("opening its store")
        let cache = try await open(cluster, eventLoop)
        try await choosePrefetch()
        try await serve(cluster, cache, ComputePool(threads: configuration.threads), eventLoop)
    }

    /// Dials until the coordinator answers; nil when the daemon is stopped first.
    private func clusterShape() async throws -> ClusterShape? {
        var hasReported = false
        while !Task.isShuttingDownGracefully {
            do throws(ServiceError) {
                let client = try await Cluster.connect(
                    to: configuration.coordinator, tls: configuration.link.tls)
                let topology = try await client.topology()
                await client.close()
                return topology.shape
            } catch {
                // Certificates and the other side's settings are read again while daemons run.
                guard error.isRetryable || error.code == .accessDenied else { throw error }
                if !hasReported {
                    logger.warning("Coordinator not reached, retrying", metadata: ["reason": "\(error.message)"])
                    hasReported = true
                }
                // Each attempt has ended: the daemon is not stuck but waits for another.
                ServiceManager.extendTimeout(by: Self.startExtension, status: "dialling the coordinator")
                // Between two dials, not for something to happen: nothing tells when a socket will exist.
                try? await cancelWhenGracefulShutdown {
                    try await Task.sleep(for: .nanoseconds(configuration.redialDelay.nanoseconds))
                }
            }
        }
        return nil
    }

    /// More than the time between two signs of progress, less than anybody would wait for a daemon that hangs.
    static let startExtension = Duration.seconds(60)

    private func open(_ cluster: ClusterShape, _ eventLoop: any EventLoop) async throws -> ShardCache {
        let begin = NIODeadline.now()
        let progress = LoadProgress()
        // systemd gives a start more time for as long as the store is being read, and ends one that hangs.
        let seen = Mutex(0)
        let ticker = eventLoop.scheduleRepeatedTask(initialDelay: .seconds(5), delay: .seconds(5)) { _ in
            let steps = progress.steps
            let hasAdvanced = seen.withLock { seen in
                defer { seen = steps }
                return steps > seen
            }
            guard hasAdvanced else { return }
            ServiceManager.extendTimeout(
                by: Self.startExtension, status: "loading the store: \(progress.description)")
        }
        defer { ticker.cancel() }
        // On a separate thread: opening scans the keys of a store that may be large.
        let cache = try await NIOThreadPool.singleton.runIfActive { [settings] in
            try ShardCache.open(
                directory: settings.storeDirectory, rank: settings.rank.rank, cluster: cluster,
                settings: settings.cache, progress: progress)
        }
        let statistics = try cache.statistics()
        let metadata: Logger.Metadata = [
            "path": "\(settings.storeDirectory)", "store": "\(cache.storeID)", "sequences": "\(statistics.sequences)",
            "tokens": "\(statistics.localTokens)", "blocks": "\(statistics.sealedBlocks)",
            "in-pieces": "\(statistics.piecedBlocks)", "epoch": "\(cache.highestEpoch.value)",
            "layout": "\(LayoutFingerprint(cluster))",
            "durability": "\(settings.cache.durability.rawValue)", "used": "\(statistics.storeUsedByteCount)",
            "limit": "\(statistics.storeMapByteCount)",
            "duration-us": "\((NIODeadline.now() - begin).nanoseconds / 1000)",
        ]
        if let found = cache.reverification {
            logger.log(
                level: found.damagedSequences.isEmpty ? .notice : .error,
                "Verified the store after a failed sync; damaged tokens are not served",
                metadata: [
                    "blocks": "\(found.progress.blocks)", "findings": "\(found.findings.count)",
                    "damaged": "\(found.damagedSequences.map { "\($0.value)" }.joined(separator: ","))",
                ])
        }
        if cache.excessByteCount > 0 {
            logger.warning(
                """
                The store's file is larger than its limit, or may become so, because deletions need free pages; new \
                tokens are refused while it holds more than the limit's high watermark
                """,
                metadata: [
                    "limit": "\(statistics.storeMapByteCount)", "used": "\(statistics.storeUsedByteCount)",
                    "file": "\(statistics.storeFileByteCount)", "excess": "\(cache.excessByteCount)",
                ])
        }
        let unfound = cache.sequencesWithDamagedIDs
        if !unfound.isEmpty {
            logger.error(
                """
                Token ids are damaged; their sequences are served, but cannot be found by token ids until \
                `dcpctl verify --repair`
                """,
                metadata: ["sequences": "\(unfound.map { "\($0.value)" }.joined(separator: ","))"])
        }
        if cache.highestEpoch == .none {
            logger.notice("New store opened", metadata: metadata)
        } else {
            log.write(.recovered, .notice, "Store opened, every sequence is at its last commit", metadata)
        }
        return cache
    }

    private func serve(
        _ cluster: ClusterShape, _ cache: ShardCache, _ pool: ComputePool, _ eventLoop: any EventLoop
    ) async throws {
        let (fatalErrors, fatal) = AsyncStream.makeStream(of: ServiceError.self)
        let server = try await eventLoop.submit { [configuration, log, observed] in
            let events = RankEventLog(
                log: log, link: configuration.link, cache: cache, pool: pool, eventLoop: eventLoop)
            let server = RankServer(
                configuration, cluster: cluster, cache: cache, pool: pool, eventLoop: eventLoop
            ) { event in
                if case .fatal(let error) = event { fatal.yield(error) }
                events.write(event)
            }
            observed.observation.began(
                NIOLoopBound((server: server, cache: cache, pool: pool), eventLoop: eventLoop), eventLoop)
            return NIOLoopBound((server: server, events: events), eventLoop: eventLoop)
        }.get()
        var failure: (any Error)?
        do {
            try await eventLoop.flatSubmit { server.value.server.start() }.get()
            // Serves until it is stopped, or fails.
            failure = await withGracefulShutdownHandler {
                await fatalErrors.first { _ in true }
            } onGracefulShutdown: {
                fatal.finish()
            }
        } catch {
            failure = error
        }
        ServiceManager.stopping()
        let timeout = TimeAmount(reload.current[RankKeys.table.drainTimeout])
        logger.notice("Draining", metadata: ["deadline": "\(timeout.nanoseconds / 1_000_000_000) s"])
        try await eventLoop.flatSubmit { server.value.server.stop(drainTimeout: timeout) }.get()
        observed.observation.ended()
        try await pool.shutDown()
        // The latest commits are written before the daemon ends.
        cache.close()
        // Completions of pool and writer still come to the loop and need the server; this comes after all of them.
        try await eventLoop.submit { server.value.events.stop() }.get()
        if let failure { throw failure }
    }
}
