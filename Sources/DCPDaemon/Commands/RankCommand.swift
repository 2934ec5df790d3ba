public import ArgumentParser
internal import DCPClient
internal import DCPCore
internal import DCPWire

/// `dcp-rank`
public struct RankCommand: AsyncParsableCommand {
    public static let configuration = CommandConfiguration(
        commandName: "dcp-rank",
        abstract: "Keeps one shard of every sequence's KV cache and serves attention over it.",
        discussion: """
            A rank registers with the coordinator, which tells it the cluster's shape, and serves when all ranks are \
            there. Its store belongs to it: the rank's number, the cluster's shape and the store are bound to each other.

            A setting is taken from its flag, else from its environment variable, else from the configuration file; \
            --print-config shows them all. SIGHUP reads the file again. `{rank}` in a path or an address is the rank's \
            number.

            The fastest kernels that the CPU has are used; the environment variable DCP_KERNELS forces others \
            (`dcpctl kernels` lists them). How they prefetch is measured at the first start on a machine, in 0.3 s, and kept beside \
            the store; DCP_KERNELS_AHEAD=first, second or none forces it.

            With --disk-limit the data file never grows beyond that size. New tokens are refused, retryably, when the high \
            watermark of the room for data is passed, until less than the low one is in use; closing and truncating \
            sequences frees room. The same goes for a disk that is full: the rank reads on, and writes again by itself.

            --durability says what a loss of power may cost: nothing that was acknowledged (always), the last second \
            (everysec), or what the kernel had not written (never). The death of the process costs nothing in any.

            EXAMPLE
              dcp-rank --rank 0 --store /var/lib/dcp/rank-0 \\
                  --listen unix:/run/dcp/rank-0.sock \\
                  --coordinator unix:/run/dcp/coordinator.sock --disk-limit 200GB
            """,
        version: Release.current)

    @OptionGroup var common: CommonOptions

    @Option(help: "This rank's number, from 0. With --check-config or --print-config it may be left out.")
    var rank: UInt16?

    @OptionGroup package var settings: SettingOptions<RankKeys>

    public init() {}

    public func validate() throws {
        guard rank != nil || common.isInspection else {
            throw ValidationError("Which rank this is is missing; give --rank 0, --rank 1 and so on.")
        }
        try settings.check()
    }

    public func run() async throws {
        var source = source()
        source.isInspected = common.isInspection && EnvironmentVariable.value("CREDENTIALS_DIRECTORY") == nil
        let (configuration, settings) = try Runtime.refusing { [source] in try load(source) }
        if common.isInspection {
            let condition = try configuration.missingCredentials(
                listening: RankKeys.table.listen, dialled: RankKeys.table.coordinator, RankKeys.table.access)
            return try common.report(configuration, condition: condition)
        }
        ProcessMemory.keepFreed()
        let index = RankIndex(rank ?? 0)
        let log = DaemonLog(label: "dcp-rank@\(index.value)", level: settings.logLevel, rank: index)
        let service = RankService(
            settings: settings, log: log, reload: Reload(source: source, configuration: configuration))
        await Runtime.run(service, log: log, stopOnStandardInputEnd: common.stopOnStdinEof)
    }

    /// All of the configuration, checked; what `run` does before it serves.
    package func check() throws { _ = try load(source()) }

    private func load(_ source: ConfigurationSource) throws -> (Configuration, RankSettings) {
        let configuration = try source.load()
        return (
            configuration,
            try RankSettings(configuration, rank: RankIndex(rank ?? 0), isKnown: rank != nil)
        )
    }

    private func source() -> ConfigurationSource {
        ConfigurationSource(
            settings: Setting.ofRank, rank: rank.map { RankIndex($0) }, flags: settings.given,
            filePath: common.config)
    }
}
