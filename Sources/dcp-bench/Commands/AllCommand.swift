// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import DCPBench
import DCPCore
import DCPStore

struct AllCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "all",
        abstract: "Measure everything in the README's table: decode, prefill, append and a whole step.",
        discussion: """
            Measures decode at each context with one and two threads, for 4, 8 and 3 query heads per KV head, and with \
            a window of 1,024 at the longest context; a chunk of prefill, and both with latent attention, at the \
            shortest; append; and a step through two ranks at the longest. With the default contexts it takes about \
            four minutes and up to 1.3 GB of disk.

            EXAMPLE
              dcp-bench all
              dcp-bench all --json --plot all.svg
            """)

    @Option(help: ArgumentHelp("Tokens to attend over; separate several by commas.", valueName: "counts"))
    var context: String = "32k,128k"

    @Option(help: ArgumentHelp("Tokens of a chunk of prefill and append.", valueName: "count"))
    var count: String = "512"

    @OptionGroup var options: BenchOptions

    func run() async throws {
        try await execute {
            let contexts = try Lists.counts(context, option: "--context", in: ShapeOptions.contexts).sorted()
            let count = try Lists.count(count, option: "--count", in: ShapeOptions.counts)
            let large = try AttentionShape("llama-8b")
            let latent = try AttentionShape("128x1x576x512", isLatent: true)
            let threads = [1, 2]
            let shapes = [large, try AttentionShape("llama-70b"), try AttentionShape("smollm2-135m")]
            let decodes = [
                KernelBenchmark(
                    .decode, shapes: shapes, formats: [.bfloat16], contexts: contexts, threads: threads, count: 1),
                KernelBenchmark(
                    .decode, shapes: [large], formats: [.float16, .float32], contexts: contexts, threads: threads,
                    count: 1),
                KernelBenchmark(
                    .decode, shapes: [large], formats: [.bfloat16], contexts: [contexts[contexts.count - 1]],
                    threads: threads, count: 1, visibility: .window(1024)),
                KernelBenchmark(
                    .decode, shapes: [latent], formats: [.bfloat16], contexts: [contexts[0]], threads: threads,
                    count: 1),
                KernelBenchmark(
                    .prefill, shapes: [latent], formats: [.bfloat16], contexts: [contexts[0]], threads: threads,
                    count: 64),
            ]
            let prefill = KernelBenchmark(
                .prefill, shapes: [large], formats: [.bfloat16], contexts: [contexts[0]], threads: threads,
                count: count, withNewTokens: true)
            let append = AppendBenchmark(
                shapes: [large], formats: [.bfloat16], contexts: [0], threads: [1], count: count, rows: .bfloat16,
                durabilities: [.never, .everysec, .always])
            let step = StepBenchmark(
                shapes: [large], formats: [.bfloat16], contexts: [contexts[contexts.count - 1]], threads: [1],
                ranks: 2, count: 1, queries: .bfloat16, exchange: .allToAll)
            let notMeasured =
                KernelBenchmark.notMeasured(.decode) + KernelBenchmark.notMeasured(.prefill).suffix(1)
                + AppendBenchmark.notMeasured + StepBenchmark.notMeasured
            try await options.execute(
                "all", ["context": context, "count": "\(count)"], notMeasured: notMeasured, attends: true
            ) { bench in
                let kernels = try await onOwnThread { try (decodes + [prefill]).flatMap { try $0.run(bench) } }
                let appends = try await onOwnThread { try append.run(bench) }
                return kernels + appends + (try await step.run(bench))
            }
        }
    }
}
