// SPDX-License-Identifier: Apache-2.0

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

    @OptionGroup package var settings: SettingOptions<CoordinatorKeys>

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
