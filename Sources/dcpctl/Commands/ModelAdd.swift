// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import DCPClient
import DCPConsole
import DCPCore
import DCPModelFiles

extension Models {
    struct Add: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Register a model from its config.json or from a file that describes its layers.",
            discussion: """
                --config reads a config.json of Hugging Face transformers, for the families deepseek_v2, deepseek_v3, \
                falcon, gemma2, gemma3, glm4, gpt_bigcode, gpt_oss, llama, mistral, olmo3, phi3, qwen2, qwen3, \
                qwen3_moe and smollm3. Unsupported attention is refused by name: linear attention, chunked-local \
                attention, ALiBi. --model-file takes any order of layers; the article Models describes its format.

                Sinks are weights and not in config.json: give the checkpoint's files with --sinks.

                Adding a model that is already registered changes nothing; if it differs, the command fails and shows \
                both values.

                EXAMPLE
                  dcpctl model add llama --config Llama-3.1-8B/config.json --revision 2024-07-23
                  dcpctl model add oss --config gpt-oss-20b/config.json --sinks gpt-oss-20b/model-00000-of-00002.safetensors \
                --sinks gpt-oss-20b/model-00001-of-00002.safetensors
                  dcpctl model add mine --model-file mine.yaml --dry-run
                """)

        @Argument(help: "The model's name.")
        var name: String

        @Option(help: ArgumentHelp("A config.json of Hugging Face transformers.", valueName: "file"))
        var config: String?

        @Option(help: ArgumentHelp("A description of the layers, in YAML or JSON.", valueName: "file"))
        var modelFile: String?

        @Option(
            help: ArgumentHelp(
                "The cache format: \(CacheFormat.names). Default: as the file says, otherwise bf16.",
                valueName: "format"))
        var kvFormat: String?

        @Option(
            help: ArgumentHelp(
                "An identifier of weights and rotary settings, such as a hash; compared with the revision that a "
                    + "client gives.",
                valueName: "text"))
        var revision: String?

        @Option(
            help: ArgumentHelp(
                "A safetensors file with sinks, model.layers.<l>.self_attn.sinks or layers.<l>.sinks; may be repeated.",
                valueName: "file"))
        var sinks: [String] = []

        @Flag(help: "Only show what would be registered; needs no cluster.")
        var dryRun = false

        @OptionGroup var client: ClientOptions

        func validate() throws {
            _ = try file()
            if let kvFormat, CacheFormat(name: kvFormat) == nil {
                throw ValidationError("`\(kvFormat)` is not a cache format; use \(CacheFormat.names).")
            }
        }

        private func file() throws(ValidationError) -> ModelSource.File {
            switch (config, modelFile) {
            case (let config?, nil): return .config(config)
            case (nil, let modelFile?): return .modelFile(modelFile)
            default: throw ValidationError("Give one of --config and --model-file.")
            }
        }

        private func description() throws -> ModelDescription {
            var source = ModelSource(try file())
            source.kvFormat = kvFormat.flatMap { CacheFormat(name: $0) }
            source.revision = revision
            source.sinks = sinks
            return try source.description()
        }

        func run() async throws {
            try await execute {
                let description = try description()
                guard !dryRun else {
                    let view = ModelView(name, description)
                    return try client.output.print(view) { view.text }
                }
                try await client.withCluster { cluster in
                    let known = try await cluster.model(named: name)
                    let view = ModelView(try await cluster.registerModel(name, description))
                    try client.output.print(view) {
                        view.text + "\n"
                            + (known == nil
                                ? "Added model `\(name)`."
                                : "Model `\(name)` is already registered with this description.")
                    }
                }
            }
        }
    }
}
