// SPDX-License-Identifier: Apache-2.0

internal import DCPCoordinator
internal import DCPCore
internal import DCPRank
internal import DCPTransport
internal import DCPWire
internal import Logging
internal import NIOCore
internal import NIOPosix
internal import ServiceLifecycle

/// The coordinator daemon: opens its state, serves, stops.
struct CoordinatorService: DaemonService {
    let settings: CoordinatorSettings
    let log: DaemonLog
    let reload: Reload

    let observed: CoordinatorObserved

    init(settings: CoordinatorSettings, log: DaemonLog, reload: Reload) {
        self.settings = settings
        self.log = log
        self.reload = reload
        observed = CoordinatorObserved(
            process: ProcessFigures(kernels: ""), canaryInterval: settings.observability.canaryInterval,
            canaries: CanaryRecord())
    }

    var companions: [any Service] {
        settings.observability.http.map { [HTTPService(address: $0, observed: observed, log: log)] } ?? []
    }

    private var logger: Logger { log.logger }

    func apply(_ configuration: Configuration) {
        log.set(level: configuration[CoordinatorKeys.table.logLevel])
        observed.observation.perform { [losses = configuration.losses] in $0.configure(losses) }
        log.reload(settings.server.link.tls, configuration, CoordinatorKeys.table.access)
    }

    func run() async throws {
        FaultReport.report()
        logger.notice("Starting", metadata: ["release": "\(Release.current)"])
        var configuration = settings.server
        if let passed = try PassedSocket.take() {
            if configuration.link.tls == nil {
                let insecure = CoordinatorKeys.table.access.insecureLoopbackOnly
                try passed.endpoint.checkPlainAllowed(insecureLoopbackOnly: reload.current[insecure])
            }
            configuration.listen = passed.endpoint
            configuration.inheritedSocket = passed.descriptor
        }
        let store = try await NIOThreadPool.singleton.runIfActive { [settings] in
            try CoordinatorStore(directory: settings.stateDirectory, shape: settings.shape)
        }
        let state = store.initialState
        logger.notice(
            "State open",
            metadata: [
                "path": "\(settings.stateDirectory)", "epoch": "\(state.epoch.value)",
                "models": "\(state.models.count)", "sequences": "\(state.sequences.count)",
                "layout": "\(LayoutFingerprint(settings.shape))",
            ])
        if store.isNew {
            logger.notice(
                """
                New cluster: its shape cannot change later. To start over with another shape, stop all daemons, remove \
                the coordinator's state and the ranks' stores, set the keys of `cluster` in dcp.yaml, and start
                """,
                metadata: [
                    "ranks": "\(settings.shape.ranks)", "head-groups": "\(settings.shape.headGroups)",
                    "interleave": "\(settings.shape.layout.interleave)",
                    "block-tokens": "\(settings.shape.layout.blockTokens)",
                    "path": "\(settings.stateDirectory)",
                ])
        }
        let eventLoop = MultiThreadedEventLoopGroup.singleton.next()
        let (fatalErrors, fatal) = AsyncStream.makeStream(of: ServiceError.self)
        let serving = try await eventLoop.submit { [configuration, log] in
            let server = CoordinatorServer(configuration, store: store, eventLoop: eventLoop) { event in
                if case .fatal(let error) = event { fatal.yield(error) }
                CoordinatorEventLog(log: log, link: configuration.link).write(event)
            }
            // It has no compute threads: its loop and its store are all there is to watch.
            let ticker = ServiceTicker(
                logger: log.logger, status: { Self.status(server) }, progress: { ComputeProgress() },
                writerBusySince: { store.writerBusySince })
            return NIOLoopBound((server: server, ticker: ticker), eventLoop: eventLoop)
        }.get()
        try await eventLoop.flatSubmit { serving.value.server.start() }.get()
        let endpoint = try await eventLoop.submit { [observed] in
            observed.observation.began(NIOLoopBound(serving.value.server, eventLoop: eventLoop), eventLoop)
            // Ready to take ranks; that the cluster is complete is the ranks' readiness.
            ServiceManager.ready(status: Self.status(serving.value.server))
            serving.value.ticker.start(on: eventLoop)
            return serving.value.server.endpoint
        }.get()
        let canaries = settings.observability.canaryInterval.map { interval in
            Task { [tls = configuration.link.tls] in
                await Canaries(
                    interval: interval, coordinator: endpoint, tls: tls, record: observed.canaries, log: log
                ).run()
            }
        }
        let failure = await withGracefulShutdownHandler {
            await fatalErrors.first { _ in true }
        } onGracefulShutdown: {
            fatal.finish()
        }
        ServiceManager.stopping()
        canaries?.cancel()
        observed.observation.ended()
        try await eventLoop.submit {
            serving.value.ticker.stop()
            serving.value.server.stop()
        }.get()
        store.close()
        if let failure { throw failure }
    }

    private static func status(_ server: CoordinatorServer) -> String {
        let (epoch, models, sequences, reason) = server.summary
        let standing = reason.isEmpty ? "cluster ready in epoch \(epoch.value)" : "cluster not ready, \(reason)"
        return "\(standing): \(models) models, \(sequences) sequences"
    }
}
