// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import DCPClient
import DCPConsole
import DCPCore
import DCPTransfer

extension Sequences {
    struct Export: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Write the committed keys and values of a sequence to a safetensors file.",
            discussion: """
                The file does not depend on the shape of the cluster, and appears complete or not at all. Steps on the \
                sequence continue during the export.

                The file has the keys and values in the form of the cache, and an import gives the same bits: rows of \
                bf16, f16 or f32, or of an int8 or fp8 cache bytes with a scale for each token and KV head. --as \
                writes rows of another dtype, for programs that read no others. A narrower one rounds them, and these \
                bits are lost; f32 keeps all of any cache.

                EXAMPLE
                  dcpctl sequence export chat-1 chat-1.safetensors
                  dcpctl sequence export chat-1 chat-1.safetensors --as bf16
                """)

        @Argument(help: "The sequence's name.")
        var name: String
        @Argument(help: "The file to write; an existing one is replaced.")
        var file: String
        @Option(
            name: .customLong("as"),
            help: ArgumentHelp(
                "The dtype of rows in the file: bf16, f16 or f32. Default: the form of the cache.", valueName: "dtype"))
        var rowType: String?
        @OptionGroup var client: ClientOptions

        func validate() throws {
            try OutputFile.check(file, of: "The file")
            if let rowType, DataType(name: rowType) == nil {
                throw ValidationError("`\(rowType)` is not a dtype of rows; use bf16, f16 or f32.")
            }
        }

        func run() async throws {
            let dataType = rowType.flatMap { DataType(name: $0) }
            try await transfer(client, "export") { cluster, bar in
                try await cluster.export(name, to: file, as: dataType) { done, total in
                    bar.update(done: done, of: total)
                }
            } text: { report in
                "Wrote \(report.tokens) tokens of sequence `\(report.sequence)` (\(report.layers) layers, "
                    + "\(ByteFormat.format(report.byteCount))) to \(file)."
            }
        }
    }

    struct Import: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Create a sequence from a file that `export` wrote.",
            discussion: """
                The two clusters may have different shapes. An unknown model is registered; a known one must match. \
                Rows of another dtype than the cache's are rounded to it. An interrupted import leaves the sequence \
                with some of the tokens; --resume compares them with the file and continues.

                EXAMPLE
                  dcpctl sequence import chat-1.safetensors --name chat-1-copy
                """)

        @Argument(help: "The safetensors file.")
        var file: String
        @Option(help: ArgumentHelp("The new sequence's name. Default: as it was exported.", valueName: "name"))
        var name: String?
        @Option(help: ArgumentHelp("The model's name. Default: as it was exported.", valueName: "name"))
        var model: String?
        @Flag(help: "Continue an interrupted import.")
        var resume = false
        @OptionGroup var client: ClientOptions

        func run() async throws {
            try await transfer(client, "import") { cluster, bar in
                var options = ImportOptions()
                (options.name, options.model, options.resume) = (name, model, resume)
                return try await cluster.importSequence(try SequenceFile(file), options) { done, total in
                    bar.update(done: done, of: total)
                }
            } text: { report in
                "Sequence `\(report.sequence)` of model `\(report.model)` has \(report.tokens) tokens (\(report.layers) "
                    + "layers, \(ByteFormat.format(report.byteCount))) from \(file)"
                    + (report.tokensKept > 0 ? "; the first \(report.tokensKept) were already there." : ".")
            }
        }
    }
}

/// Runs a transfer with a progress bar. A signal ends it between two chunks, so that it says how far it came.
private func transfer(
    _ client: ClientOptions, _ label: String,
    _ body: @escaping @Sendable (Cluster, LateProgressBar) async throws -> TransferReport,
    text: (TransferReport) -> String
) async throws {
    try await execute {
        let report = try await interruptible { () async throws -> TransferReport in
            let bar = LateProgressBar(label)
            do {
                var report: TransferReport?
                try await client.withCluster { cluster in report = try await body(cluster, bar) }
                bar.finish()
                guard let report else { preconditionFailure("a body that returned has a report") }
                return report
            } catch let error as ServiceError {
                bar.finish()
                guard Task.isCancelled else { throw error }
                printMessage(error.message)
                throw CancellationError()
            }
        }
        try client.output.print(TransferView(report)) { text(report) }
    }
}

struct TransferView: Encodable {
    var sequence: String
    var model: String
    var layers: Int
    var tokens: Int
    var tokensKept: Int
    var bytes: Int

    init(_ report: TransferReport) {
        sequence = report.sequence
        model = report.model
        layers = report.layers
        tokens = report.tokens
        tokensKept = report.tokensKept
        bytes = report.byteCount
    }
}
