// SPDX-License-Identifier: Apache-2.0

internal import DCPConsole
internal import DCPCoordinator
internal import DCPCore
internal import DCPHost
internal import DCPTransport
internal import DCPWire
internal import Logging

extension Configuration {
    /// What is given up of stores.
    var losses: Set<RankLoss> {
        let keys = CoordinatorKeys.table
        return self[keys.replaceStore].union(self[keys.acceptOlderStore])
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
        let keys = CoordinatorKeys.table
        let access = keys.access, cluster = keys.cluster
        shape = try configuration.checked(
            [cluster.ranks, cluster.headGroups, cluster.interleave, cluster.blockTokens].map(\.setting)
        ) { () throws(ServiceError) in
            try ClusterShape(
                ranks: configuration[cluster.ranks], headGroups: configuration[cluster.headGroups],
                interleave: configuration[cluster.interleave], blockTokens: configuration[cluster.blockTokens],
                exchange: configuration[cluster.exchange])
        }
        server = CoordinatorServer.Configuration(
            listen: try configuration.listenEndpoint(keys.listen, access))
        server.link = try configuration.link(access, role: .coordinator)
        server.lease = configuration[keys.lease]
        server.unknownGrace = configuration[keys.unknownGrace]
        server.evict = configuration[keys.evict]
        let lease = configuration[keys.lease], idle = configuration[keys.evictIdle]
        server.evictIdle = idle
        if server.evict != .off {
            try configuration.checked([keys.evictIdle.setting, keys.lease.setting]) { () throws(ServiceError) in
                guard idle >= lease else {
                    throw ServiceError(
                        .invalidConfiguration,
                        "An idle time of \(idle.inSeconds) s is outside \(lease.inSeconds)...86400, from the lease to a day."
                    )
                }
            }
        }
        observability = try ObservabilitySettings(
            configuration, http: keys.http, anyAddress: keys.httpAnyAddress, canaryInterval: keys.canaryInterval)
        server.losses = configuration.losses
        let state = configuration[keys.state]
        stateDirectory = state
        server.hostReport = { HostInspection.report(store: state) }
        logLevel = configuration[keys.logLevel]
    }
}
