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

    @Option(
        help: ArgumentHelp(
            "The most the store's data file may take on the disk: 200GB, 64MiB. At least 4MiB.", valueName: "size"))
    var diskLimit: ByteSize?

    @Option(help: ArgumentHelp("New tokens are refused from this share of the store's room on.", valueName: "percent"))
    var highWatermark: Int = 95

    @Option(help: ArgumentHelp("Below this share they are taken again.", valueName: "percent"))
    var lowWatermark: Int = 90

    @Option(help: ArgumentHelp("RAM for tokens that are not committed yet, in MiB.", valueName: "MiB"))
    var uncommittedLimit: Int = 1024

    public init() {}

    /// The reserve for deletions and a little data.
    private static let diskLimitMin = 4 << 20

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
        if let diskLimit {
            guard diskLimit.byteCount >= Self.diskLimitMin else {
                throw ValidationError(
                    "A disk limit of \(diskLimit.byteCount) bytes is below the smallest of \(Self.diskLimitMin); correct "
                        + "--disk-limit.")
            }
            let mapByteCount = ShardCache.Settings.mapByteCountMax(diskByteCountMax: diskLimit.byteCount)
            settings.mapByteCountMax = mapSize == nil ? mapByteCount : min(mapByteCount, settings.mapByteCountMax)
        }
        guard let watermarks = Watermarks(high: highWatermark, low: lowWatermark) else {
            throw ValidationError(
                "Watermarks of \(highWatermark) % and \(lowWatermark) % are not 1 <= low < high <= 100; correct "
                    + "--high-watermark or --low-watermark.")
        }
        settings.watermarks = watermarks
        guard (1...1 << 20).contains(uncommittedLimit) else {
            throw ValidationError("\(uncommittedLimit) MiB are outside 1...\(1 << 20); correct --uncommitted-limit.")
        }
        settings.uncommittedByteCountMax = uncommittedLimit << 20
        return (configuration, settings)
    }
}
