// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import DCPBench
import DCPCore

struct JoinCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "join",
        abstract:
            "Open many sequences in a local cluster and restart its ranks: time until the cluster is ready.",
        discussion: """
            Starts a coordinator and ranks as real daemons, and opens the sequences in lists. Each round restarts the \
            ranks as they are, and once more after one of them has committed a token of every sequence that the others \
            lack, which the join cuts.

            EXAMPLE
              dcp-bench join
              dcp-bench join --sequences 1k,10k,100k --ranks 2 --runs 3
            """)

    @Option(help: ArgumentHelp("Sequences in the cluster; separate several by commas.", valueName: "counts"))
    var sequences: String = "1k,10k,100k"

    @Option(help: ArgumentHelp("How many ranks.", valueName: "count"))
    var ranks: String = "2"

    @OptionGroup var options: BenchOptions

    func run() async throws {
        try await execute {
            let benchmark = JoinBenchmark(
                sequences: try Lists.counts(sequences, option: "--sequences", in: 1...1_000_000),
                ranks: try Lists.count(ranks, option: "--ranks", in: 2...64))
            let parameters = ["sequences": sequences, "ranks": ranks]
            try await options.execute("join", parameters, notMeasured: JoinBenchmark.notMeasured) { bench in
                try await benchmark.run(bench)
            }
        }
    }
}
