internal import DCPCoordinator
internal import DCPCore
internal import DCPTransport
internal import DCPWire
internal import Logging
internal import NIOCore
internal import NIOPosix
internal import ServiceLifecycle

/// The coordinator daemon: opens its state, serves, stops.
struct CoordinatorService: Service {
    let configuration: CoordinatorServer.Configuration
    let stateDirectory: String
    let shape: ClusterShape
    let logger: Logger

    func run() async throws {
        logger.notice("Starting", metadata: ["release": "\(Release.current)"])
        let store = try await NIOThreadPool.singleton.runIfActive { [stateDirectory, shape] in
            try CoordinatorStore(directory: stateDirectory, shape: shape)
        }
        let state = store.initialState
        logger.notice(
            "State open",
            metadata: [
                "path": "\(stateDirectory)", "epoch": "\(state.epoch.value)", "models": "\(state.models.count)",
                "sequences": "\(state.sequences.count)", "layout": "\(LayoutFingerprint(shape))",
            ])
        let eventLoop = MultiThreadedEventLoopGroup.singleton.next()
        let (fatalErrors, fatal) = AsyncStream.makeStream(of: ServiceError.self)
        let server = try await eventLoop.submit { [configuration, logger] in
            NIOLoopBound(
                CoordinatorServer(configuration, store: store, eventLoop: eventLoop) { event in
                    if case .fatal(let error) = event { fatal.yield(error) }
                    Self.log(event, to: logger)
                }, eventLoop: eventLoop)
        }.get()
        try await eventLoop.flatSubmit { server.value.start() }.get()
        // Ready to take ranks; that the cluster is complete is the ranks' readiness.
        ServiceManager.ready(status: "waiting for \(shape.ranks) ranks")
        let failure = await withGracefulShutdownHandler {
            await fatalErrors.first { _ in true }
        } onGracefulShutdown: {
            fatal.finish()
        }
        ServiceManager.stopping()
        try await eventLoop.submit { server.value.stop() }.get()
        store.close()
        if let failure { throw failure }
    }

    private static func log(_ event: CoordinatorEvent, to logger: Logger) {
        switch event {
        case .listening(let endpoint): logger.notice("Listening", metadata: ["endpoint": "\(endpoint)"])
        case .rankRegistered(let rank, let store, let endpoint):
            logger.notice(
                "Rank registered",
                metadata: ["rank": "\(rank.value)", "store": "\(store)", "endpoint": "\(endpoint)"])
        case .rankLost(let rank, let reason):
            logger.warning(
                "Rank lost, the cluster waits for it", metadata: ["rank": "\(rank.value)", "reason": "\(reason)"])
            ServiceManager.status("rank \(rank.value) missing")
        case .joining(let epoch): logger.info("Joining", metadata: ["epoch": "\(epoch.value)"])
        case .ready(let epoch):
            logger.notice("Cluster ready", metadata: ["epoch": "\(epoch.value)"])
            ServiceManager.status("cluster ready in epoch \(epoch.value)")
        case .reconciled(let sequence, let length, let truncated):
            logger.notice(
                "Sequence reconciled to what every rank has",
                metadata: [
                    "sequence": "\(sequence.value)", "length": "\(length)",
                    "truncated": "\(truncated.map { "\($0.value)" }.joined(separator: ","))",
                ])
        case .unknownSequences(let rank, let count):
            logger.warning(
                "A rank holds sequences the directory does not know, leaving them alone",
                metadata: ["rank": "\(rank.value)", "count": "\(count)"])
        case .operationFailed(let operation, let error):
            logger.error(
                "Operation refused by a rank and taken back where it made something",
                metadata: ["operation": "\(operation)", "reason": "\(error.message)"])
        case .evicted(let sequence, let name, let rank, let byteCount):
            logger.notice(
                "Sequence evicted to make room",
                metadata: [
                    "sequence": "\(sequence.value)", "name": "\(name)", "rank": "\(rank.value)",
                    "wanted": "\(byteCount) bytes",
                ])
        case .refused(let peer, let error):
            logger.warning(
                "Refused a connection",
                metadata: ["peer": "\(peer)", "error": "\(error.code)", "reason": "\(error.message)"])
        case .fatal: break  // Logged once, with the exit.
        }
    }
}
