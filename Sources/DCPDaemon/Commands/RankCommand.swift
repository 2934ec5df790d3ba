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
            (`dcpctl kernels` lists them). How they prefetch is measured at the first start on a machine, in 0.5 s, and kept beside \
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

    @Option(help: .setting(.rankListen)) var listen: String?
    @Option(help: .setting(.advertise)) var advertise: String?
    @Option(help: .setting(.coordinator)) var coordinator: String?
    @Option(help: .setting(.store)) var store: String?
    @Option(help: .setting(.threads)) var threads: String?
    @Option(help: .setting(.durability)) var durability: String?
    @Option(help: .setting(.mapSize)) var mapSize: String?
    @Option(help: .setting(.diskLimit)) var diskLimit: String?
    @Option(help: .setting(.highWatermark)) var highWatermark: String?
    @Option(help: .setting(.lowWatermark)) var lowWatermark: String?
    @Option(help: .setting(.uncommittedLimit)) var uncommittedLimit: String?
    @Option(help: .setting(.memoryLimit)) var memoryLimit: String?
    @Option(help: .setting(.memoryIdle)) var memoryIdle: String?
    @Option(help: .setting(.sharedMemory)) var sharedMemory: String?
    @Option(help: .setting(.claimTimeout)) var claimTimeout: String?
    @Option(help: .setting(.drainTimeout)) var drainTimeout: String?
    @Option(help: .setting(.expectedCanaryInterval)) var canaryInterval: String?
    @Option(help: .setting(.rankHTTP)) var http: String?
    @Flag(help: .setting(.rankHTTPAnyAddress)) var insecureHttpAnyAddress = false
    @OptionGroup var access: AccessOptions
    @Option(help: .setting(.rankLogLevel)) var logLevel: String?

    public init() {}

    public func validate() throws {
        guard rank != nil || common.isInspection else {
            throw ValidationError("Which rank this is is missing; give --rank 0, --rank 1 and so on.")
        }
        _ = try flags()
    }

    public func run() async throws {
        var source = try source()
        source.isInspected = common.isInspection && EnvironmentVariable.value("CREDENTIALS_DIRECTORY") == nil
        let (configuration, settings) = try Runtime.refusing { [source] in try load(source) }
        if common.isInspection {
            let condition = try configuration.missingCredentials(
                listening: .rankListen, dialled: .coordinator, ConfigurationKey.rankAccess)
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
    package func check() throws { _ = try load(try source()) }

    private func load(_ source: ConfigurationSource) throws -> (Configuration, RankSettings) {
        let configuration = try source.load()
        return (
            configuration,
            try RankSettings(configuration, rank: RankIndex(rank ?? 0), isKnown: rank != nil)
        )
    }

    private func source() throws -> ConfigurationSource {
        ConfigurationSource(
            keys: ConfigurationKey.ofRank, rank: rank.map { RankIndex($0) }, flags: try flags(),
            filePath: common.config)
    }

    private func flags() throws -> [ConfigurationKey: String] {
        try givenFlags([
            .rankListen: listen, .advertise: advertise, .coordinator: coordinator, .store: store, .threads: threads,
            .durability: durability, .mapSize: mapSize, .diskLimit: diskLimit,
            .highWatermark: highWatermark, .lowWatermark: lowWatermark, .uncommittedLimit: uncommittedLimit,
            .memoryLimit: memoryLimit, .memoryIdle: memoryIdle, .sharedMemory: sharedMemory,
            .claimTimeout: claimTimeout, .drainTimeout: drainTimeout, .expectedCanaryInterval: canaryInterval,
            .rankHTTP: http,
            .rankHTTPAnyAddress: insecureHttpAnyAddress ? "true" : nil,
            .rankLogLevel: logLevel,
        ]).merging(access.flags(ConfigurationKey.rankAccess)) { $1 }
    }
}
