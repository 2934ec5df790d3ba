// SPDX-License-Identifier: Apache-2.0

public import DCPCore
internal import DCPSafetensors

/// The source of a model's description, and options beside the file.
public struct ModelSource: Sendable {
    public enum File: Sendable {
        /// A config.json as Hugging Face transformers writes it.
        case config(String)
        /// A description of all layers, see *Models*.
        case modelFile(String)

        public var path: String {
            switch self {
            case .config(let path), .modelFile(let path): path
            }
        }
    }

    public var file: File
    /// What the cache keeps. Default: what the file says, of a config.json the dtype of the weights; else bf16.
    public var kvFormat: CacheFormat?
    /// What identifies weights and rotary settings.
    public var revision: String?
    /// Safetensors files with the logits of layers that have sinks: `model.layers.<l>.self_attn.sinks`, as in a checkpoint, or
    /// `layers.<l>.sinks`. A checkpoint of several files is given as all of them.
    public var sinks: [String] = []

    public init(_ file: File) { self.file = file }

    /// Reads the files.
    /// - Throws: `.invalidModel`, naming file, line, key, value and remedy; what cannot be served is refused by name.
    public func description() throws(ServiceError) -> ModelDescription {
        let path = file.path
        let fields = try ModelFields(reading: path)
        let draft =
            switch file {
            case .config: try HuggingFaceConfig(fields).draft()
            case .modelFile: try ModelFile(fields).draft()
            }
        let kvFormat = try ModelDraft.agreed(self.kvFormat, draft.kvFormat, "kv_format", file: path, text: \.name)
        let revision = try ModelDraft.agreed(self.revision, draft.revision, "revision", file: path) { "`\($0)`" }
        let sinkFiles = try sinks.map { (sinks) throws(ServiceError) in try SafetensorsFile.open(sinks) }
        let logits = try draft.allSinks(sinkFiles, file: path)
        do throws(ServiceError) {
            return try ModelDescription(
                layers: draft.layers, kvFormat: kvFormat ?? draft.weightsDataType.map(CacheFormat.init) ?? .bfloat16,
                sinks: logits,
                revision: revision)
        } catch {
            throw ServiceError(error.code, "\(path): \(error.message)")
        }
    }
}
