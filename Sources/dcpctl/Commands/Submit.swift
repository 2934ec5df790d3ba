// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import DCPConsole
import DCPCore
import DCPLocalCluster
import DCPModelFiles
import DCPTransfer
import DCPWire

struct Submit: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Send queries, keys and values from a file; write the attention's output.",
        discussion: """
            The file has tensors q [T, Hq, Dk], k [T, Hkv, Dk] and v [T, Hkv, Dv] for one layer, or layers.0.q, \
            layers.0.k and so on for several; f32, bf16 or f16. One file has all layers of the model, because a token \
            is committed with all its layers. Without v the values are the first value_dim dimensions of the keys \
            (latent attention). Sinks are in sinks [Hq], or layers.0.sinks. Token ids, token_ids [T] in u32, are \
            committed with the tokens, and `dcpctl sequence match` finds the sequence by them.

            The file's metadata may give model, revision, layers, query_heads, kv_heads, prefill_tokens, position and \
            sequence, and for all layers or a single one scale, softcap, window and value_dim: window, or \
            layers.0.window. Options override it. An unknown model is registered from the file; a known one must \
            match. With --model-file that file describes the model, and contradicting files or options are refused.

            The first --prefill tokens are sent in chunks and the rest one at a time, as a decoder does. The output is \
            o [T, Hq, Dv] and lse [T, Hq], or layers.0.o and so on, in float32. With --continue, after an interrupted \
            command, only the uncommitted tokens are sent and answered; the output's metadata has the position of the \
            first one.

            With --retry-for the command waits while a daemon restarts, resumes the sequence and continues; the output \
            is the same to the bit. It reports each outage on standard error. A request to a suspended daemon fails \
            only after --timeout, so choose a shorter one.

            EXAMPLE
              dcpctl submit prompt.safetensors --sequence chat-1 --output o.safetensors
              dcpctl submit prompt.safetensors --sequence chat-1 --output o.safetensors --retry-for 1m
              dcpctl submit prompt.safetensors --sequence chat-1 --continue
              dcpctl submit prompt.safetensors --model-file gemma.yaml --revision 2024-06-27
              dcpctl submit trace.safetensors --local 4 --expect expected.safetensors
            """)

    @Argument(help: "The safetensors file.")
    var file: String

    @Option(help: ArgumentHelp("The file to write the output to.", valueName: "file"))
    var output: String?

    @Option(
        help: ArgumentHelp(
            "The sequence to append to; created if it does not exist. Default: the file's name.", valueName: "name"))
    var sequence: String?

    @Option(help: ArgumentHelp("The model. Default: the file's name.", valueName: "name"))
    var model: String?

    @Option(
        help: ArgumentHelp(
            "The cache format of a new model: \(CacheFormat.names). Default: the keys' dtype.", valueName: "format"))
    var kvFormat: String?

    @Option(parsing: .unconditional, help: "The layer that q, k and v belong to. Default: 0.")
    var layer: Int?

    @Option(parsing: .unconditional, help: "Number of layers of a new model. Default: as many as in the file.")
    var layers: Int?

    @Option(
        parsing: .unconditional,
        help: "Position of the first token. Default: the end of the sequence; with --continue, 0.")
    var position: Int?

    @Flag(
        name: .customLong("continue"),
        help: "Continue at the sequence's length in the file, after comparing the stored tokens with the file.")
    var continues = false

    @Option(
        parsing: .unconditional,
        help: ArgumentHelp(
            "Number of tokens to send in chunks; the rest are sent one at a time. Default: all.", valueName: "tokens"))
    var prefill: Int?

    @Option(parsing: .unconditional, help: ArgumentHelp("Tokens in a chunk.", valueName: "tokens"))
    var chunk: Int = 512

    @Option(parsing: .unconditional, help: "The factor of every score. Default: 1 / sqrt(Dk).")
    var scale: Float?

    @Option(parsing: .unconditional, help: "c of c * tanh(score / c); 0 for none.")
    var softcap: Float?

    @Option(
        parsing: .unconditional, help: "Number of tokens that a query sees, including its own; 0 for all. Default: all."
    )
    var window: Int?

    @Option(
        help: ArgumentHelp(
            "An identifier of the weights, such as their hash; must match the model's. Default: any.",
            valueName: "text"))
    var revision: String?

    @Option(
        help: ArgumentHelp(
            "A description of the whole model, in YAML or JSON; see the article Models.", valueName: "file"))
    var modelFile: String?

    @Option(
        help: ArgumentHelp(
            "With --model-file: a safetensors file with the sinks of its layers; may be repeated.", valueName: "file"))
    var sinks: [String] = []

    @Option(
        help: """
            How ranks get the queries: gather (each is sent its own heads), replicate (each is sent all) or auto \
            (the cheaper one).
            """)
    var query: String = "auto"

    @Option(
        help: ArgumentHelp(
            "Continue after an outage of the cluster of up to this time: 30s, 5m. Default: fail immediately.",
            valueName: "duration"))
    var retryFor: String = "0s"

    @Option(help: ArgumentHelp("Compare the output with this file.", valueName: "file"))
    var expect: String?

    @Option(parsing: .unconditional, help: "The largest allowed difference from an expected value.")
    var tolerance: Float = 2e-5

    @Option(
        parsing: .unconditional,
        help: ArgumentHelp("Start a temporary cluster of this many ranks for this call.", valueName: "ranks"))
    var local: Int?

    @OptionGroup(title: "Local cluster") var cluster: ClusterOptions
    @OptionGroup var client: ClientOptions

    func validate() throws {
        if let kvFormat, CacheFormat(name: kvFormat) == nil {
            throw ValidationError("`\(kvFormat)` is not a cache format; use \(CacheFormat.names).")
        }
        guard StepRequest.QueryMode.choices[query] != nil else {
            throw ValidationError("`\(query)` is not a query mode; use auto, gather or replicate.")
        }
        if let output { try OutputFile.check(output, of: "--output") }
        guard local == nil || client.coordinator == nil else {
            throw ValidationError("--local starts a cluster, and --coordinator names another one; give one of them.")
        }
        guard local != nil || !cluster.isGiven else {
            throw ValidationError(
                "--head-groups, --interleave, --block-tokens, --exchange, --threads and --tcp are of the temporary cluster; "
                    + "give them with --local.")
        }
        guard tolerance >= 0 else {
            throw ValidationError("The tolerance \(tolerance) is negative; correct --tolerance.")
        }
        guard sinks.isEmpty || modelFile != nil else {
            throw ValidationError(
                "--sinks requires --model-file; give both, or put the sinks into the file as tensors.")
        }
        for (name, value) in [
            ("--layer", layer), ("--layers", layers), ("--position", position), ("--prefill", prefill),
            ("--window", window),
        ] {
            if let value, value < 0 { throw ValidationError("\(name) \(value) is negative; correct it.") }
        }
    }

    private func submitOptions() throws(ServiceError) -> SubmitOptions {
        var options = SubmitOptions()
        options.model = model
        options.sequence = sequence
        options.kvFormat = kvFormat.flatMap { CacheFormat(name: $0) }
        options.layer = layer
        options.layers = layers
        options.position = position
        options.continues = continues
        options.prefill = prefill
        options.chunk = chunk
        options.scale = scale
        options.softcap = softcap
        options.window = window
        options.revision = revision
        options.description = try modelFile.map { (path) throws(ServiceError) in
            var source = ModelSource(.modelFile(path))
            (source.kvFormat, source.revision, source.sinks) = (options.kvFormat, revision, sinks)
            return try source.description()
        }
        options.queryMode = StepRequest.QueryMode.choices[query] ?? nil
        options.expect = expect
        options.tolerance = tolerance
        options.retryFor = try DurationFormat.parse(retryFor)
        return options
    }

    func run() async throws {
        try await execute {
            let submission = try Submission(file, options: submitOptions(), output: output)
            if let local {
                let options = cluster.options(ranks: local)
                let client = client
                try await interruptible {
                    try await LocalCluster.withEphemeral(options: options, ready: clusterIsReady) { daemons in
                        try await submit(submission, client.with(coordinator: daemons.coordinatorEndpoint))
                    }
                }
            } else {
                try await submit(submission, client)
            }
        }
    }

    private func submit(_ submission: Submission, _ client: ClientOptions) async throws {
        try await client.withCluster(retryFor: DurationFormat.parse(retryFor)) { cluster in
            let bar = ProgressBar(label: "submit", total: submission.tokens, parts: submission.layers)
            let report: SubmissionReport
            do {
                report = try await submission.run(on: cluster) {
                    bar.update(done: $0)
                } resumed: { resume in
                    printMessage(
                        "resumed after \(DurationFormat.latency(resume.outage)), committed up to "
                            + "\(resume.committedLength): \(resume.cause)")
                }
                bar.finish()
            } catch {
                bar.finish()
                throw error
            }
            if !report.missingLayers.isEmpty {
                let missing = report.missingLayers.map(String.init).joined(separator: ", ")
                let layers = report.missingLayers.count == 1 ? "layer" : "layers"
                printMessage(
                    "the file lacks \(layers) \(missing) of model `\(report.model)`: nothing of it is committed, and "
                        + "the next client of sequence `\(report.sequence)` discards it")
            }
            if let failure = report.ranksFailure {
                printMessage("everything is committed, but the ranks' status could not be read: \(failure)")
            }
            let view = SubmissionView(report)
            try client.output.print(view) { view.text }
            try check(report)
        }
    }

    private func check(_ report: SubmissionReport) throws(ServiceError) {
        for layer in report.layers {
            for (name, error) in [("o", layer.outputErrorMax), ("lse", layer.lseErrorMax)] {
                guard let error, error > tolerance else { continue }
                throw ServiceError(
                    .invalidRequest,
                    "Layer \(layer.layer): \(name) differs by up to \(error) from \(expect ?? ""), but the tolerance "
                        + "is \(tolerance). Raise --tolerance if the expected file was computed with less precision.")
            }
        }
    }
}
