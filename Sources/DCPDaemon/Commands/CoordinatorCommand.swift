public import ArgumentParser
internal import DCPCoordinator
internal import DCPCore
internal import DCPWire

/// `dcp-coordinator`
public struct CoordinatorCommand: AsyncParsableCommand {
    public static let configuration = CommandConfiguration(
        commandName: "dcp-coordinator",
        abstract: "Holds the membership and the directory of a DCP cluster.",
        discussion: """
            The coordinator keeps track of ranks, models and sequences. It is not on the data path: a client gets the \
            topology from it once and then talks to the ranks. While the coordinator is stopped, the ranks keep \
            serving.

            With --evict lru the coordinator closes least recently used sequences while a rank's store is above its \
            high watermark or its disk is full. It never closes pinned sequences (dcpctl sequence pin) or sequences in \
            use.

            Each setting is read from its flag, its environment variable or the configuration file, in this order; \
            --print-config shows all settings. SIGHUP reloads the file.

            EXAMPLE
              dcp-coordinator --ranks 4 --state /var/lib/dcp/coordinator \\
                  --listen unix:/run/dcp/coordinator.sock
            """,
        version: Release.current)

    @OptionGroup var common: CommonOptions

    @Option(help: .setting(.ranks)) var ranks: String?
    @Option(help: .setting(.headGroups)) var headGroups: String?
    @Option(help: .setting(.interleave)) var interleave: String?
    @Option(help: .setting(.blockTokens)) var blockTokens: String?
    @Option(help: .setting(.exchange)) var exchange: String?
    @Option(help: .setting(.coordinatorListen)) var listen: String?
    @Option(help: .setting(.state)) var state: String?
    @Option(help: .setting(.lease)) var lease: String?
    @Option(help: .setting(.unknownGrace)) var unknownGrace: String?
    @Option(help: .setting(.evict)) var evict: String?
    @Option(help: .setting(.evictIdle)) var evictIdle: String?
    @Option(help: .setting(.canaryInterval)) var canaryInterval: String?
    @Option(help: .setting(.replaceStore)) var replaceStore: String?
    @Option(help: .setting(.acceptOlderStore)) var acceptOlderStore: String?
    @Option(help: .setting(.coordinatorHTTP)) var http: String?
    @Flag(help: .setting(.coordinatorHTTPAnyAddress)) var insecureHttpAnyAddress = false
    @OptionGroup var access: AccessOptions
    @Option(help: .setting(.coordinatorLogLevel)) var logLevel: String?

    @Flag(
        help: ArgumentHelp(
            "Rebuild the directory from the ranks' stores, because the state is lost for good or an older copy. "
                + "Needs all ranks."
        ))
    var adoptRanks = false

    @Option(
        help: ArgumentHelp(
            "With --adopt-ranks: this rank's store is lost as well. Accept an empty one; every sequence is cut to 0 "
                + "tokens.",
            valueName: "rank"))
    var adoptWithout: [UInt16] = []

    public init() {}

    public func validate() throws { _ = try flags() }

    public func run() async throws {
        var source = try source()
        source.isInspected = common.isInspection && EnvironmentVariable.value("CREDENTIALS_DIRECTORY") == nil
        let (configuration, loaded) = try Runtime.refusing { [source] in try Self.load(source) }
        if common.isInspection {
            let condition = try configuration.missingCredentials(
                listening: .coordinatorListen, dialled: nil, ConfigurationKey.coordinatorAccess)
            return try common.report(configuration, condition: condition)
        }
        var settings = loaded
        settings.server.adoptsRanks = adoptRanks
        settings.server.adoptsWithout = Set(adoptWithout.map { RankIndex($0) })
        let log = DaemonLog(label: "dcp-coordinator", level: settings.logLevel)
        let service = CoordinatorService(
            settings: settings, log: log, reload: Reload(source: source, configuration: configuration))
        await Runtime.run(service, log: log, stopOnStandardInputEnd: common.stopOnStdinEof)
    }

    /// All of the configuration, checked; what `run` does before it serves.
    package func check() throws { _ = try Self.load(try source()) }

    static func load(_ source: ConfigurationSource) throws -> (Configuration, CoordinatorSettings) {
        let configuration = try source.load()
        return (configuration, try CoordinatorSettings(configuration))
    }

    private func source() throws -> ConfigurationSource {
        ConfigurationSource(
            keys: ConfigurationKey.ofCoordinator, rank: nil, flags: try flags(), filePath: common.config)
    }

    private func flags() throws -> [ConfigurationKey: String] {
        try givenFlags([
            .ranks: ranks, .headGroups: headGroups, .interleave: interleave, .blockTokens: blockTokens,
            .exchange: exchange, .coordinatorListen: listen, .state: state, .lease: lease,
            .unknownGrace: unknownGrace, .evict: evict, .evictIdle: evictIdle,
            .canaryInterval: canaryInterval, .replaceStore: replaceStore, .acceptOlderStore: acceptOlderStore,
            .coordinatorHTTP: http,
            .coordinatorHTTPAnyAddress: insecureHttpAnyAddress ? "true" : nil, .coordinatorLogLevel: logLevel,
        ]).merging(access.flags(ConfigurationKey.coordinatorAccess)) { $1 }
    }
}
