public import ArgumentParser
internal import DCPCoordinator
internal import DCPCore
internal import DCPTransport
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

            EXAMPLE
              dcp-coordinator --ranks 4 --state /var/lib/dcp/coordinator \\
                  --listen unix:/run/dcp/coordinator.sock
            """,
        version: Release.current)

    @OptionGroup var common: CommonOptions

    @Option(help: ArgumentHelp("The directory of its state; created when missing.", valueName: "directory"))
    var state: String

    @Option(help: "How many ranks the cluster has.")
    var ranks: Int = 1

    @Option(help: "How many head groups the ranks form. Divides the ranks and every model's KV heads.")
    var headGroups: Int = 1

    @Option(help: "How many consecutive tokens one rank owns. Divides the block tokens.")
    var interleave: Int = 1

    @Option(help: "Local tokens in a block; a multiple of 16.")
    var blockTokens: Int = 64

    @Option(help: "How ranks exchange partial results: a2a or ag-rs.")
    var exchange: String = "a2a"

    @Option(
        help: ArgumentHelp(
            "How long a rank may stay silent before it counts as lost, in seconds.", valueName: "seconds"))
    var lease: Double = 5

    @Option(
        help: ArgumentHelp(
            "Take another store for this rank: its old one is lost for good. The tokens it held are given up.",
            valueName: "rank"))
    var replaceStore: [UInt16] = []

    @Option(
        help: ArgumentHelp(
            "When a rank's store is full: off (refuse new tokens) or lru (close the least recently used sequence).",
            valueName: "policy"))
    var evict: String = "off"

    @Option(
        help: ArgumentHelp(
            "With --evict lru, how long a sequence must not have been used to be evicted, in seconds; at least --lease.",
            valueName: "seconds"))
    var evictIdle: Double = 10

    public init() {}

    public func validate() throws { _ = try settings() }

    public func run() async throws {
        let (configuration, shape) = try settings()
        let service = CoordinatorService(
            configuration: configuration, stateDirectory: state, shape: shape,
            logger: Runtime.logger("dcp-coordinator", level: try common.level()))
        await Runtime.run(service, logger: service.logger, stopOnStandardInputEnd: common.stopOnStdinEof)
    }

    private func settings() throws -> (CoordinatorServer.Configuration, ClusterShape) {
        guard let exchange = Exchange(name: exchange) else {
            throw ValidationError("`\(exchange)` is not an exchange; use a2a or ag-rs.")
        }
        guard (0.1...3600).contains(lease) else {
            throw ValidationError("A lease of \(lease) s is outside 0.1...3600; correct --lease.")
        }
        guard let policy = EvictionPolicy(rawValue: evict) else {
            throw ValidationError("`\(evict)` is not an eviction policy; use off or lru.")
        }
        // Uses are told with the leases: below one a sequence in use could look idle.
        guard (lease...86_400).contains(evictIdle) || policy == .off else {
            throw ValidationError(
                "An idle time of \(evictIdle) s is outside \(lease)...86400, from the lease to a day; correct --evict-idle."
            )
        }
        let shape = try checked { () throws(ServiceError) in
            try ClusterShape(
                ranks: ranks, headGroups: headGroups, interleave: interleave, blockTokens: blockTokens,
                exchange: exchange)
        }
        _ = try common.level()
        var configuration = CoordinatorServer.Configuration(listen: try common.endpoint())
        configuration.lease = .milliseconds(Int(lease * 1000))
        configuration.evict = policy
        configuration.evictIdle = .milliseconds(Int(min(evictIdle, 86_400) * 1000))
        configuration.replaceableStores = Set(replaceStore.map { RankIndex($0) })
        return (configuration, shape)
    }
}
