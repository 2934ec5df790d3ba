internal import DCPCoordinator
internal import DCPCore
internal import DCPTransport
internal import DCPWire
internal import Logging

/// The coordinator's configuration as the types that it is made from.
struct CoordinatorSettings {
    var server: CoordinatorServer.Configuration
    var shape: ClusterShape
    var stateDirectory: String
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
        server = CoordinatorServer.Configuration(
            listen: try configuration.listenEndpoint(.coordinatorListen, .coordinatorInsecureLoopbackOnly))
        server.lease = .milliseconds(Int((configuration.seconds(.lease) * 1000).rounded()))
        server.unknownGrace = .milliseconds(Int((configuration.seconds(.unknownGrace) * 1000).rounded()))
        stateDirectory = configuration.text(.state)
        logLevel = Logger.Level(rawValue: configuration.text(.coordinatorLogLevel))!
    }
}
