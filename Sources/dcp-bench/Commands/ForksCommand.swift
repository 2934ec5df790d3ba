// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import DCPBench
import DCPCore

struct ForksCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "forks",
        abstract: "Fork a sequence through a local cluster: one fork, and a list of forks in one request.",
        discussion: """
            Starts a coordinator and ranks as real daemons. Each round forks a sequence once, then into a list of \
            forks, then forks a sequence with uncommitted tokens into a list. The client times the forks, compares \
            them with their parent, and closes them.

            EXAMPLE
              dcp-bench forks
              dcp-bench forks --ranks 1,2,4 --forks 32 --context 4k --json
            """)

    @OptionGroup var shape: CacheShapeOptions

    @Option(help: ArgumentHelp("How many ranks; separate several by commas.", valueName: "counts"))
    var ranks: String = "2,4"

    @Option(help: ArgumentHelp("Tokens to fork.", valueName: "count"))
    var context: String = "1k"

    @Option(help: ArgumentHelp("Forks in a list.", valueName: "count"))
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
