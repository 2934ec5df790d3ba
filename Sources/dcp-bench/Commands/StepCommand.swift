import ArgumentParser
import DCPBench
import DCPCore

struct StepCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "step",
        abstract: "Whole decode steps through a local cluster: latency, and where it goes.",
        discussion: """
            Starts a coordinator and ranks as real daemons, fills the ranks' stores, and sends steps that each go on where \
            the last one ended. The ranks time themselves: attention, kernels, the waits for queries and for partials, \
            the merge. --threads are those of each rank.

            EXAMPLE
              dcp-bench step
              dcp-bench step --ranks 2 --context 32k,128k --shape 64x8x128 --json
              dcp-bench step --context 1k --python .build/python/bin/python
            """)

    @OptionGroup var shape: ShapeOptions

    @Option(help: "How many ranks.")
    var ranks: Int = 2

    @Option(help: ArgumentHelp("Tokens in the cache before; several with commas.", valueName: "counts"))
    var context: String = "128k"

    @Option(help: ArgumentHelp("Tokens of a step.", valueName: "count"))
    var count: String = "1"

    @Option(help: ArgumentHelp("Queries as bf16 or as f32, on the wire as well.", valueName: "kind"))
    var queries: String = "bf16"

    @Option(help: "How ranks exchange partial results: a2a or ag-rs.")
    var exchange: String = Exchange.allToAll.name

    @Option(
        help: ArgumentHelp(
            "Also measure the client in Python, in turn, with this interpreter, which has dcp_attention.",
            valueName: "path"))
    var python: String?

    @OptionGroup var options: BenchOptions

    func validate() throws {
        guard (1...64).contains(ranks) else {
            throw ValidationError("\(ranks) ranks are outside 1...64, the most that one machine is asked for.")
        }
        guard Exchange(name: exchange) != nil else {
            throw ValidationError("`\(exchange)` is not an exchange; use a2a or ag-rs.")
        }
    }

    func run() async throws {
        try await execute {
            let benchmark = StepBenchmark(
                shapes: try shape.shapes(), dataTypes: try shape.dataTypes(),
                contexts: try Lists.counts(context, option: "--context", in: ShapeOptions.contexts),
                threads: try shape.threadCounts(), ranks: ranks,
                count: try Lists.count(count, option: "--count", in: 1...1024), queries: try QueryKind(option: queries),
                exchange: Exchange(name: exchange) ?? .allToAll, python: python)
            var parameters = shape.parameters
            parameters["ranks"] = "\(ranks)"
            parameters["context"] = context
            parameters["count"] = count
            parameters["queries"] = queries
            parameters["exchange"] = exchange
            parameters["python"] = python
            try await options.execute("step", parameters, notMeasured: StepBenchmark.notMeasured) { bench in
                try await benchmark.run(bench)
            }
        }
    }
}
