internal import DCPClient
internal import DCPCoordinator
internal import DCPCore
internal import DCPTransport
internal import DCPWire
internal import Logging

extension Configuration {
    /// What is given up of stores.
    var losses: Set<RankLoss> {
        ValueKind.losses(self[.replaceStore]?.text ?? "", .store)
            .union(ValueKind.losses(self[.acceptOlderStore]?.text ?? "", .change))
    }
}

/// The coordinator's configuration as the types that it is made from.
struct CoordinatorSettings {
    var server: CoordinatorServer.Configuration
    var shape: ClusterShape
    var stateDirectory: String
    var observability: ObservabilitySettings
    var logLevel: Logger.Level

    /// - Throws: `ConfigurationError` for what single values do not show: a shape that does not come out even, plain TCP
    ///   that was not asked for.
    init(_ configuration: Configuration) throws {
        let keys: [ConfigurationKey] = [.ranks, .headGroups, .interleave, .blockTokens]
        shape = try configuration.checked(keys) { () throws(ServiceError) in
            try ClusterShape(
                ranks: configuration.integer(.ranks), headGroups: configuration.integer(.headGroups),
                interleave: configuration.integer(.interleave), blockTokens: configuration.integer(.blockTokens),
                exchange: Exchange(name: configuration.text(.exchange))!)
        }
        let access = ConfigurationKey.coordinatorAccess
        server = CoordinatorServer.Configuration(
            listen: try configuration.listenEndpoint(.coordinatorListen, access))
        server.link = try configuration.link(access, role: .coordinator)
        server.lease = .milliseconds(Int((configuration.seconds(.lease) * 1000).rounded()))
        server.unknownGrace = .milliseconds(Int((configuration.seconds(.unknownGrace) * 1000).rounded()))
        server.evict = EvictionPolicy(rawValue: configuration.text(.evict))!
        let lease = configuration.seconds(.lease), idle = configuration.seconds(.evictIdle)
        server.evictIdle = .milliseconds(Int((idle * 1000).rounded()))
        if server.evict != .off {
            try configuration.checked([.evictIdle, .lease]) { () throws(ServiceError) in
                guard idle >= lease else {
                    throw ServiceError(
                        .invalidConfiguration,
                        "An idle time of \(idle) s is outside \(lease)...86400, from the lease to a day.")
                }
            }
        }
        observability = try ObservabilitySettings(
            configuration, http: .coordinatorHTTP, anyAddress: .coordinatorHTTPAnyAddress,
            canaryInterval: .canaryInterval)
        server.losses = configuration.losses
        let state = configuration.text(.state)
        stateDirectory = state
        server.hostReport = { HostInspection.report(store: state) }
        logLevel = Logger.Level(rawValue: configuration.text(.coordinatorLogLevel))!
    }
}
