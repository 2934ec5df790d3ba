// SPDX-License-Identifier: Apache-2.0

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
              dcp-bench cache commit --clients 1,8
              dcp-bench cache open --context 1m
              dcp-bench cache match --context 100000 --sequences 10000
            """,
        subcommands: [AppendCommand.self, CommitCommand.self, OpenCommand.self, MatchCommand.self])
}

struct CommitCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "commit",
        abstract: "Commit decode tokens one by one: latency, and bytes written per byte of the tokens.",
        discussion: """
            Each client appends a token to all layers of its own sequence and commits it. Concurrent commits share a \
            transaction. A round fills and seals one block of each layer; --runs sets the number of rounds.

            EXAMPLE
              dcp-bench cache commit --clients 1,8 --durability always,everysec,never
              dcp-bench cache commit --layers 32 --ranks 1,4 --durability everysec
            """)

    @OptionGroup var shape: CacheShapeOptions

    @Option(help: "Layers of the model.")
    var layers: Int = 32

    @Option(help: ArgumentHelp("Concurrent clients; separate several by commas.", valueName: "counts"))
    var clients: String = "1,8"

    @Option(
        help: ArgumentHelp(
            "Context ranks: the measured rank owns one token in this many, and commits each token; separate several "
                + "by commas.",
            valueName: "counts"))
    var ranks: String = "1"

    @Option(help: ArgumentHelp("never, everysec or always; separate several by commas.", valueName: "settings"))
    var durability: String = "always,everysec,never"

    @OptionGroup var options: BenchOptions

    func validate() throws {
        guard (1...1024).contains(layers) else {
            throw ValidationError("\(layers) layers are outside 1...1024; correct --layers.")
        }
    }

    func run() async throws {
        try await execute {
            let benchmark = CommitBenchmark(
                shapes: try Lists.shapes(shape.shape),
                formats: try Lists.formats(shape.kvFormat), layers: layers,
                clients: try Lists.counts(clients, option: "--clients", in: 1...64),
                ranks: try Lists.counts(ranks, option: "--ranks", in: 1...1024),
                durabilities: try Lists.durabilities(durability))
            let parameters = [
                "shape": shape.shape, "kv_format": shape.kvFormat, "layers": "\(layers)", "clients": clients,
                "ranks": ranks,
                "durability": durability,
            ]
            try await options.execute("cache commit", parameters, notMeasured: CommitBenchmark.notMeasured) { bench in
                try await onOwnThread { try benchmark.run(bench) }
            }
        }
    }
}

struct OpenCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "open",
        abstract: "Restart a killed rank: time to open its store, and time until the cluster is ready.",
        discussion: """
            Runs real daemons on a store that is not in the page cache, with one sequence and one layer. 1m tokens of \
            the default shape take 4.5 GiB of disk.

            EXAMPLE
              dcp-bench cache open --context 1m --runs 5
              dcp-bench cache open --context 1m --ranks 2
            """)

    @OptionGroup var shape: CacheShapeOptions

    @Option(help: ArgumentHelp("Tokens in the store; separate several by commas.", valueName: "counts"))
    var context: String = "128k"

    @Option(help: "Ranks of the cluster, which share the tokens; the first is killed and restarted.")
    var ranks: Int = 1

    @OptionGroup var options: BenchOptions

    func validate() throws {
        guard (1...64).contains(ranks) else {
            throw ValidationError("\(ranks) ranks are outside 1...64; correct --ranks.")
        }
    }

    func run() async throws {
        try await execute {
            let benchmark = OpenBenchmark(
                shapes: try Lists.shapes(shape.shape),
                formats: try Lists.formats(shape.kvFormat),
                contexts: try Lists.counts(context, option: "--context", in: ShapeOptions.contexts), ranks: ranks)
            let parameters = [
                "shape": shape.shape, "kv_format": shape.kvFormat, "context": context, "ranks": "\(ranks)",
            ]
            try await options.execute("cache open", parameters, notMeasured: OpenBenchmark.notMeasured) { bench in
                try await benchmark.run(bench)
            }
        }
    }
}

struct MatchCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "match",
        abstract: "Find the longest stored prefix of token ids, and build the index for it as a start does.",
        discussion: """
            Forks of one sequence diverge inside its last 64 tokens; as many sequences of 1,024 tokens have nothing in \
            common. The ids searched for diverge from all at the second-to-last token. Writing the default takes about \
            a minute.

            EXAMPLE
              dcp-bench cache match
              dcp-bench cache match --context 1000,100000 --sequences 100,10000
            """)

    @Option(help: ArgumentHelp("Ids to search for; separate several by commas.", valueName: "counts"))
    var context: String = "100000"

    @Option(help: ArgumentHelp("Forks that share them; separate several by commas.", valueName: "counts"))
    var sequences: String = "10000"

    @OptionGroup var options: BenchOptions

    func run() async throws {
        try await execute {
            let benchmark = MatchBenchmark(
                contexts: try Lists.counts(context, option: "--context", in: 128...ShapeOptions.contexts.upperBound),
                sequences: try Lists.counts(sequences, option: "--sequences", in: 1...100_000))
            try await options.execute(
                "cache match", ["context": context, "sequences": sequences], notMeasured: MatchBenchmark.notMeasured
            ) { bench in
                try await onOwnThread { try benchmark.run(bench) }
            }
        }
    }
}

/// What the cache of one rank keeps, where no compute threads are involved.
struct CacheShapeOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "HqxHkvxD or HqxHkvxDkxDv, or llama-8b, llama-70b, smollm2-135m; separate several by commas. Default: "
                + "32x8x128.",
            valueName: "shapes"))
    var shape: String = "32x8x128"

    @Option(
        help: ArgumentHelp(
            "What the KV cache keeps: \(CacheFormat.names); separate several by commas.", valueName: "formats"))
    var kvFormat: String = "bf16"
}

struct AppendCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "append",
        abstract: "Append chunks to the panels and commit them: bytes of K and V per second, beside memcpy.",
        discussion: """
            Each thread appends to its own layer; a commit seals the blocks of all layers.

            EXAMPLE
              dcp-bench cache append
              dcp-bench cache append --count 512 --rows f32,bf16 --durability always --threads 1,2
            """)

    @OptionGroup var shape: ShapeOptions

    @Option(
        help: ArgumentHelp(
            "Tokens in the store before the first append; separate several by commas.", valueName: "counts"))
    var context: String = "0"

    @Option(help: ArgumentHelp("Tokens of a chunk.", valueName: "count"))
    var count: String = "512"

    @Option(
        help: ArgumentHelp(
            "The dtype of the rows to append: bf16, f16 or f32; separate several by commas.", valueName: "dtypes"))
    var rows: String = "bf16"

    @Option(help: ArgumentHelp("never, everysec or always; separate several by commas.", valueName: "settings"))
    var durability: String = "everysec"

    @OptionGroup var options: BenchOptions

    func run() async throws {
        try await execute {
            let contexts = try Lists.counts(context, option: "--context", in: 0...ShapeOptions.contexts.upperBound)
            let base = AppendBenchmark(
                shapes: try shape.shapes(), formats: try shape.formats(), contexts: contexts,
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
