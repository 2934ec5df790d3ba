import ArgumentParser
import DCPBench
import DCPCore
import DCPStore

struct CacheCommands: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "cache",
        abstract: "Measure the cache and its store.",
        discussion: """
            EXAMPLE
              dcp-bench cache append --rows f32 --durability never,always
            """,
        subcommands: [AppendCommand.self])
}

struct AppendCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "append",
        abstract: "Append chunks to the panels and commit them: bytes of K and V a second, beside memcpy.",
        discussion: """
            Each thread appends to a layer of its own; a commit seals the blocks of all.

            EXAMPLE
              dcp-bench cache append
              dcp-bench cache append --count 512 --rows f32,bf16 --durability always --threads 1,2
            """)

    @OptionGroup var shape: ShapeOptions

    @Option(help: ArgumentHelp("Tokens in the store before; several with commas.", valueName: "counts"))
    var context: String = "0"

    @Option(help: ArgumentHelp("Tokens of a chunk.", valueName: "count"))
    var count: String = "512"

    @Option(
        help: ArgumentHelp(
            "The dtype of the rows to append: bf16, f16 or f32; several with commas.", valueName: "dtypes"))
    var rows: String = "bf16"

    @Option(help: ArgumentHelp("never, everysec or always; several with commas.", valueName: "settings"))
    var durability: String = "everysec"

    @OptionGroup var options: BenchOptions

    func run() async throws {
        try await execute {
            let contexts = try Lists.counts(context, option: "--context", in: 0...ShapeOptions.contexts.upperBound)
            let base = AppendBenchmark(
                shapes: try shape.shapes(), dataTypes: try shape.dataTypes(), contexts: contexts,
                threads: try shape.threadCounts(),
                count: try Lists.count(count, option: "--count", in: ShapeOptions.counts), rows: .bfloat16,
                durabilities: try Lists.durabilities(durability))
            let benchmarks = try Lists.dataTypes(rows, option: "--rows").map { rows in
                var benchmark = base
                benchmark.rows = rows
                return benchmark
            }
            var parameters = shape.parameters
            parameters["context"] = context
            parameters["count"] = count
            parameters["rows"] = rows
            parameters["durability"] = durability
            try await options.execute("cache append", parameters, notMeasured: AppendBenchmark.notMeasured) { bench in
                try await onOwnThread { try benchmarks.flatMap { try $0.run(bench) } }
            }
        }
    }
}
