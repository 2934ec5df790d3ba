// SPDX-License-Identifier: Apache-2.0

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
            A rank registers with the coordinator, which tells it the cluster's shape. It serves when all ranks have \
            registered. A store is bound to the rank's number and the cluster's shape.

            Each setting is read from its flag, its environment variable or the configuration file, in this order; \
            --print-config shows all settings. SIGHUP reloads the file. `{rank}` in a path or an address stands for \
            the rank's number.

            The rank uses the fastest kernels that the CPU supports; the environment variable DCP_KERNELS forces \
            others (`dcpctl kernels` lists them). At its first start on a machine the rank measures for at most 0.3 s how \
            kernels should prefetch, at the next one what that was too short for, and stores the result beside the \
            store; DCP_KERNELS_AHEAD=first, second or none overrides it.

            With --disk-limit the data file does not grow beyond that size. Above the high watermark the rank refuses \
            new tokens with a retryable error until usage falls below the low watermark; closing and truncating \
            sequences frees room. A full disk has the same effect: the rank keeps reading, and accepts writes again \
            when there is room.

            --durability defines what a power loss may cost: nothing acknowledged (always), the last second \
            (everysec), or whatever the kernel has not written yet (never). A crash of the process never loses \
            acknowledged data.

            EXAMPLE
              dcp-rank --rank 0 --store /var/lib/dcp/rank-0 \\
                  --listen unix:/run/dcp/rank-0.sock \\
                  --coordinator unix:/run/dcp/coordinator.sock --disk-limit 200GB
            """,
        version: Release.current)

    @OptionGroup var common: CommonOptions

    @Option(help: "This rank's number, from 0. Optional with --check-config or --print-config.")
    var rank: UInt16?

    @OptionGroup package var settings: SettingOptions<RankKeys>

    public init() {}

    public func validate() throws {
        guard rank != nil || common.isInspection else {
            throw ValidationError("--rank is missing; give the number of this rank: --rank 0, --rank 1 and so on.")
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
