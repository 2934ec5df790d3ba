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
            "How long ranks keep sequences that the directory does not know, in seconds: there are such when its state was restored from a copy.",
            valueName: "seconds"))
    var unknownGrace: Double = 3600

    @Option(
        help: ArgumentHelp(
            "Take another store for this rank: its old one is lost for good. The tokens it held are given up.",
            valueName: "rank"))
    var replaceStore: [UInt16] = []

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
        guard (0...1e9).contains(unknownGrace) else {
            throw ValidationError("A grace time of \(unknownGrace) s is outside 0...1e9; correct --unknown-grace.")
        }
        let shape = try checked { () throws(ServiceError) in
            try ClusterShape(
                ranks: ranks, headGroups: headGroups, interleave: interleave, blockTokens: blockTokens,
                exchange: exchange)
        }
        _ = try common.level()
        var configuration = CoordinatorServer.Configuration(listen: try common.endpoint())
        configuration.lease = .milliseconds(Int(lease * 1000))
        configuration.unknownGrace = .seconds(unknownGrace)
        configuration.replaceableStores = Set(replaceStore.map { RankIndex($0) })
        return (configuration, shape)
    }
}
