// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import DCPBench
import DCPCore

struct DirectoryCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "directory",
        abstract: "Open, look up, fork, close and list sequences in a large directory.",
        discussion: """
            Starts a coordinator and ranks as real daemons, and fills their directory with empty sequences. Each round \
            sends --requests requests of each kind, --pipelined at a time, and waits for the answers, which confirm \
            durable changes.

            EXAMPLE
              dcp-bench directory
              dcp-bench directory --sequences 1k,10k,100k --pipelined 256 --json
            """)

    @Option(help: ArgumentHelp("Sequences in the directory; separate several by commas.", valueName: "counts"))
    var sequences: String = "1k,10k,100k"

    @Option(help: ArgumentHelp("How many ranks.", valueName: "count"))
    var ranks: String = "2"

    @Option(help: ArgumentHelp("Requests of each kind in a round.", valueName: "count"))
    var requests: String = "1k"

    @Option(help: ArgumentHelp("How many of them are in flight at once.", valueName: "count"))
    var pipelined: String = "128"

    @OptionGroup var options: BenchOptions

    func run() async throws {
        try await execute {
            let benchmark = DirectoryBenchmark(
                sequences: try Lists.counts(sequences, option: "--sequences", in: 1...1 << 20),
                ranks: try Lists.count(ranks, option: "--ranks", in: 1...64),
                requests: try Lists.count(requests, option: "--requests", in: 1...1 << 16),
                pipelined: try Lists.count(pipelined, option: "--pipelined", in: 1...4096))
            let parameters = [
                "sequences": sequences, "ranks": ranks, "requests": requests, "pipelined": pipelined,
            ]
            try await options.execute("directory", parameters, notMeasured: DirectoryBenchmark.notMeasured) { bench in
                try await benchmark.run(bench)
            }
        }
    }
}
