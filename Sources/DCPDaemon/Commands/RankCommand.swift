public import ArgumentParser
internal import DCPAttention
internal import DCPCache
internal import DCPCore
internal import DCPRank
internal import DCPStore
internal import DCPTransport
internal import DCPWire

/// `dcp-rank`
public struct RankCommand: AsyncParsableCommand {
    public static let configuration = CommandConfiguration(
        commandName: "dcp-rank",
        abstract: "Keeps one shard of every sequence's KV cache and serves attention over it.",
        discussion: """
            A rank registers with the coordinator, which tells it the cluster's shape, and serves when all ranks are \
            there. Its store belongs to it: the rank's number, the cluster's shape and the store are bound to each other.

            The fastest kernels that the CPU has are used; the environment variable DCP_KERNELS forces others \
            (`dcpctl kernels` lists them).

            EXAMPLE
              dcp-rank --rank 0 --store /var/lib/dcp/rank-0 \\
                  --listen unix:/run/dcp/rank-0.sock \\
                  --coordinator unix:/run/dcp/coordinator.sock
            """,
        version: Release.current)

    @OptionGroup var common: CommonOptions

    @Option(help: "This rank's number, from 0.")
    var rank: UInt16

    @Option(help: ArgumentHelp("The directory of its store; created when missing.", valueName: "directory"))
    var store: String

    @Option(help: ArgumentHelp("Where the coordinator listens.", valueName: "endpoint"))
    var coordinator: String

    @Option(help: ArgumentHelp("What others dial instead of --listen.", valueName: "endpoint"))
    var advertise: String?

    @Option(help: "Compute threads.")
    var threads: Int = 1

    @Option(help: "When a commit reaches the disk: always, everysec or never.")
    var durability: String = "everysec"

    @Option(
        help: ArgumentHelp("The largest size of the store's file, in GiB. Address space, not disk.", valueName: "GiB"))
    var mapSize: Int?

    @Option(help: ArgumentHelp("RAM for tokens that are not committed yet, in MiB.", valueName: "MiB"))
    var uncommittedLimit: Int = 1024

    public init() {}

    public func validate() throws { _ = try settings() }

    public func run() async throws {
        let (configuration, cacheSettings) = try settings()
        let service = RankService(
            configuration: configuration, storeDirectory: store, cacheSettings: cacheSettings,
            logger: Runtime.logger("dcp-rank@\(rank)", level: try common.level()))
        await Runtime.run(service, logger: service.logger, stopOnStandardInputEnd: common.stopOnStdinEof)
    }

    private func settings() throws -> (RankConfiguration, ShardCache.Settings) {
        guard (1...1024).contains(threads) else {
            throw ValidationError("\(threads) threads are outside 1...1024; correct --threads.")
        }
        guard let durability = Durability(rawValue: durability) else {
            throw ValidationError("`\(durability)` is not a durability; use always, everysec or never.")
        }
        _ = try common.level()
        try checked { () throws(ServiceError) in try KernelSelection.check() }
        let coordinator: Endpoint = try checked { () throws(ServiceError) in try Endpoint(self.coordinator) }
        var advertised: Endpoint?
        if let advertise { advertised = try checked { () throws(ServiceError) in try Endpoint(advertise) } }
        let configuration = RankConfiguration(
            rank: RankIndex(rank), listen: try common.endpoint(), advertise: advertised, coordinator: coordinator,
            threads: threads)
        var settings = ShardCache.Settings()
        settings.durability = durability
        if let mapSize {
            guard (1...65536).contains(mapSize) else {
                throw ValidationError("A map of \(mapSize) GiB is outside 1...65536; correct --map-size.")
            }
            settings.mapByteCountMax = mapSize << 30
        }
        guard (1...1 << 20).contains(uncommittedLimit) else {
            throw ValidationError("\(uncommittedLimit) MiB are outside 1...\(1 << 20); correct --uncommitted-limit.")
        }
        settings.uncommittedByteCountMax = uncommittedLimit << 20
        return (configuration, settings)
    }
}
