import ArgumentParser
import DCPBench
import DCPCore

struct ForksCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "forks",
        abstract: "Fork a sequence through a local cluster: one fork, and a list of forks in one request.",
        discussion: """
            Starts a coordinator and ranks as real daemons. Each round forks a sequence once, then as a list, then a \
            sequence whose tokens are not committed as a list; the forks are timed at the client, compared with what was \
            forked, and closed.

            EXAMPLE
              dcp-bench forks
              dcp-bench forks --ranks 1,2,4 --forks 32 --context 4k --json
            """)

    @OptionGroup var shape: CacheShapeOptions

    @Option(help: ArgumentHelp("How many ranks; several with commas.", valueName: "counts"))
    var ranks: String = "2,4"

    @Option(help: ArgumentHelp("Tokens that are forked.", valueName: "count"))
    var context: String = "1k"

    @Option(help: ArgumentHelp("Forks of a list.", valueName: "count"))
    var forks: String = "32"

    @OptionGroup var options: BenchOptions

    func run() async throws {
        try await execute {
            let benchmark = ForkBenchmark(
                shapes: try Lists.shapes(shape.shape), formats: try Lists.formats(shape.kvFormat),
                ranks: try Lists.counts(ranks, option: "--ranks", in: 1...64),
                context: try Lists.count(context, option: "--context", in: 2...ShapeOptions.counts.upperBound),
                forks: try Lists.count(forks, option: "--forks", in: 1...1024))
            let parameters = [
                "shape": shape.shape, "kv_format": shape.kvFormat, "ranks": ranks, "context": context, "forks": forks,
            ]
            try await options.execute("forks", parameters, notMeasured: ForkBenchmark.notMeasured) { bench in
                try await benchmark.run(bench)
            }
        }
    }
}
