// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import DCPBench
import DCPCore

struct TransferCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "transfer",
        abstract: "Append keys and values through a local cluster and read them back: bytes of K and V per second.",
        discussion: """
            Starts a coordinator and ranks as real daemons. Each round appends the tokens of one layer in one step \
            without queries, commits them, reads them back and truncates the sequence; the client times appending and \
            reading, and compares what it reads with what it sent.

            EXAMPLE
              dcp-bench transfer
              dcp-bench transfer --ranks 1,2,4 --count 64k --json
            """)

    @OptionGroup var shape: CacheShapeOptions

    @Option(help: ArgumentHelp("How many ranks; separate several by commas.", valueName: "counts"))
    var ranks: String = "2,4"

    @Option(help: ArgumentHelp("Tokens of a round.", valueName: "count"))
    var count: String = "16k"

    @OptionGroup var options: BenchOptions

    func run() async throws {
        try await execute {
            let benchmark = TransferBenchmark(
                shapes: try Lists.shapes(shape.shape), formats: try Lists.formats(shape.kvFormat),
                ranks: try Lists.counts(ranks, option: "--ranks", in: 1...64),
                count: try Lists.count(count, option: "--count", in: ShapeOptions.counts))
            let parameters = ["shape": shape.shape, "kv_format": shape.kvFormat, "ranks": ranks, "count": count]
            try await options.execute("transfer", parameters, notMeasured: TransferBenchmark.notMeasured) { bench in
                try await benchmark.run(bench)
            }
        }
    }
}
