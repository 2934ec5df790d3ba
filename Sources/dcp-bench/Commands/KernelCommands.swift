// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import DCPBench
import DCPCore

struct KernelCommands: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "kernels",
        abstract: "Measure attention over the mapped pages of a real store.",
        discussion: """
            EXAMPLE
              dcp-bench kernels decode --context 128k --threads 1,2
              dcp-bench kernels prefill --count 512 --causal
            """,
        subcommands: [DecodeCommand.self, PrefillCommand.self])
}

struct DecodeCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "decode",
        abstract: "Few query tokens: bytes of K and V per second, beside a streaming read of the same pages.",
        discussion: """
            EXAMPLE
              dcp-bench kernels decode
              dcp-bench kernels decode --shape 64x8x128 --context 32k,128k --threads 1,2 --kv-format bf16,f32
              dcp-bench kernels decode --count 4 --queries f32 --json
              dcp-bench kernels decode --window 1k --context 128k
              dcp-bench kernels decode --latent --shape 128x1x576x512 --context 32k
              dcp-bench kernels decode --context 1k --sequences 64
              dcp-bench kernels decode --context 32k --forks 16 --peaked
            """)

    @OptionGroup var shape: ShapeOptions

    @Option(help: ArgumentHelp("Tokens to attend over; separate several by commas.", valueName: "counts"))
    var context: String = "128k"

    @Option(help: ArgumentHelp("Query tokens, at most 256.", valueName: "count"))
    var count: String = "1"

    @Option(help: ArgumentHelp("Queries that bf16 represents exactly (bf16), or any Float32 (f32).", valueName: "kind"))
    var queries: String = "bf16"

    @Option(help: ArgumentHelp("Sequences in a call, each with its own context.", valueName: "count"))
    var sequences: Int?

    @Option(
        help: ArgumentHelp("Forks in a call: 64 tokens of each after a context that all share.", valueName: "count"))
    var forks: Int?

    @Flag(help: "Use scores as peaked as those of a trained model.")
    var peaked = false

    @OptionGroup var layer: LayerOptions
    @OptionGroup var options: BenchOptions

    func validate() throws {
        for (name, value) in [("--sequences", sequences), ("--forks", forks)] {
            if let value, !(2...1024).contains(value) {
                throw ValidationError("\(name) \(value) is outside 2...1024; correct it.")
            }
        }
        guard [sequences != nil, forks != nil, layer.window != nil].count(where: { $0 }) <= 1 else {
            throw ValidationError("--sequences, --forks and --window are measured one at a time; give one of them.")
        }
    }

    private var batch: KernelBatch {
        if let sequences { .sequences(sequences) } else if let forks { .forks(forks) } else { .one }
    }

    func run() async throws {
        try await execute {
            let benchmark = KernelBenchmark(
                .decode, shapes: try layer.shapes(shape), formats: try shape.formats(),
                contexts: try Lists.counts(context, option: "--context", in: ShapeOptions.contexts),
                threads: try shape.threadCounts(), count: try Lists.count(count, option: "--count", in: 1...256),
                queries: try QueryKind(option: queries), visibility: try layer.visibility(), batch: batch,
                isPeaked: peaked)
            var parameters = shape.parameters.merging(layer.parameters) { $1 }
            parameters["context"] = context
            parameters["count"] = count
            parameters["queries"] = queries
            parameters["sequences"] = sequences.map { "\($0)" }
            parameters["forks"] = forks.map { "\($0)" }
            parameters["peaked"] = "\(peaked)"
            try await options.execute(
                "kernels decode", parameters, notMeasured: KernelBenchmark.notMeasured(.decode), attends: true
            ) { bench in try await onOwnThread { try benchmark.run(bench) } }
        }
    }
}

struct PrefillCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "prefill",
        abstract: "Many query tokens: operations per second, beside sgemm and the machine's peak.",
        discussion: """
            A multiply-add counts as two operations: 2 (Dk + Dv) for each query head, query token and visible token.

            EXAMPLE
              dcp-bench kernels prefill
              dcp-bench kernels prefill --count 512 --context 32k --causal --plot prefill.svg
            """)

    @OptionGroup var shape: ShapeOptions

    @Option(help: ArgumentHelp("Tokens to attend over; separate several by commas.", valueName: "counts"))
    var context: String = "32k"

    @Option(help: ArgumentHelp("Query tokens.", valueName: "count"))
    var count: String = "512"

    @Option(help: ArgumentHelp("Queries that bf16 represents exactly (bf16), or any Float32 (f32).", valueName: "kind"))
    var queries: String = "bf16"

    @Flag(help: "Also measure the chunk's attention to its own tokens.")
    var causal = false

    @OptionGroup var layer: LayerOptions
    @OptionGroup var options: BenchOptions

    func run() async throws {
        try await execute {
            let benchmark = KernelBenchmark(
                .prefill, shapes: try layer.shapes(shape), formats: try shape.formats(),
                contexts: try Lists.counts(context, option: "--context", in: ShapeOptions.contexts),
                threads: try shape.threadCounts(),
                count: try Lists.count(count, option: "--count", in: ShapeOptions.counts),
                queries: try QueryKind(option: queries), visibility: try layer.visibility(), withNewTokens: causal)
            var parameters = shape.parameters.merging(layer.parameters) { $1 }
            parameters["context"] = context
            parameters["count"] = count
            parameters["queries"] = queries
            parameters["causal"] = "\(causal)"
            try await options.execute(
                "kernels prefill", parameters, notMeasured: KernelBenchmark.notMeasured(.prefill), attends: true
            ) { bench in try await onOwnThread { try benchmark.run(bench) } }
        }
    }
}

/// What a layer's attention is beside its shape.
struct LayerOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "Number of last tokens that a query sees, including its own. Default: all.", valueName: "count"))
    var window: String?

    @Flag(help: "Values are the first Dv dimensions of keys.")
    var latent = false

    func shapes(_ options: ShapeOptions) throws(ServiceError) -> [AttentionShape] {
        try Lists.shapes(options.shape, areLatent: latent)
    }

    func visibility() throws(ServiceError) -> Visibility {
        guard let window else { return .all }
        return .window(try Lists.count(window, option: "--window", in: 2...LayerAttention.windowMax))
    }

    var parameters: [String: String] {
        var parameters = ["latent": "\(latent)"]
        parameters["window"] = window
        return parameters
    }
}
