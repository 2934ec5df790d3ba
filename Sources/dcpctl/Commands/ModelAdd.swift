import ArgumentParser
import DCPClient
import DCPConsole
import DCPCore
import DCPModelFiles

extension Models {
    struct Add: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Register a model, from its config.json or from a file that describes its layers.",
            discussion: """
                --config reads what Hugging Face transformers writes, for the families deepseek_v2, deepseek_v3, falcon, gemma2, \
                gemma3, glm4, gpt_bigcode, gpt_oss, llama, mistral, olmo3, phi3, qwen2, qwen3, qwen3_moe and smollm3. What cannot \
                be served is refused by name: linear attention, chunked-local attention, ALiBi. --model-file takes any \
                order of layers; the article Models has its form.

                Sinks are weights, and in no config.json: give the checkpoint's files with --sinks.

                Adding what is there already changes nothing; a model that differs is refused with both values.

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
                "What the cache keeps: \(CacheFormat.names). Default: what the file says, else bf16.",
                valueName: "format"))
        var kvFormat: String?

        @Option(
            help: ArgumentHelp(
                "What identifies weights and rotary settings, such as a hash; compared wherever a client names one.",
                valueName: "text"))
        var revision: String?

        @Option(
            help: ArgumentHelp(
                "A safetensors file with sinks, model.layers.<l>.self_attn.sinks or layers.<l>.sinks; may be repeated.",
                valueName: "file"))
        var sinks: [String] = []

        @Flag(help: "Only say what would be registered; needs no cluster.")
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
                                ? "Added model `\(name)`." : "Model `\(name)` was there already, as described.")
                    }
                }
            }
        }
    }
}
