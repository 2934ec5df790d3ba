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
            The coordinator knows which ranks there are, which models and which sequences. It is off the data path: a \
            client asks it once for the topology, then talks to the ranks. When it is stopped the ranks keep serving.

            With --evict lru the least recently used sequence is closed when a rank's store is above its high watermark or \
            its disk is full, and again until it is not. Pinned sequences (dcpctl sequence pin) and those in use stay.

            A setting is taken from its flag, else from its environment variable, else from the configuration file; \
            --print-config shows them all. SIGHUP reads the file again.

            EXAMPLE
              dcp-coordinator --ranks 4 --state /var/lib/dcp/coordinator \\
                  --listen unix:/run/dcp/coordinator.sock
            """,
        version: Release.current)

    @OptionGroup var common: CommonOptions

    @OptionGroup package var settings: SettingOptions<CoordinatorKeys>

    @Flag(
        help: ArgumentHelp(
            "Make the directory of what the ranks' stores hold: the state is lost for good, or an older copy. Takes all ranks."
        ))
    var adoptRanks = false

    @Option(
        help: ArgumentHelp(
            "With --adopt-ranks: this rank's store is lost, too. An empty one is taken; every sequence is cut to 0.",
            valueName: "rank"))
    var adoptWithout: [UInt16] = []

    public init() {}

    public func validate() throws { try settings.check() }

    public func run() async throws {
        var source = source()
        source.isInspected = common.isInspection && EnvironmentVariable.value("CREDENTIALS_DIRECTORY") == nil
        let (configuration, loaded) = try Runtime.refusing { [source] in try Self.load(source) }
        if common.isInspection {
            let condition = try configuration.missingCredentials(
                listening: CoordinatorKeys.table.listen, dialled: nil, CoordinatorKeys.table.access)
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
    package func check() throws { _ = try Self.load(source()) }

    static func load(_ source: ConfigurationSource) throws -> (Configuration, CoordinatorSettings) {
        let configuration = try source.load()
        return (configuration, try CoordinatorSettings(configuration))
    }

    private func source() -> ConfigurationSource {
        ConfigurationSource(
            settings: Setting.ofCoordinator, rank: nil, flags: settings.given, filePath: common.config)
    }
}
