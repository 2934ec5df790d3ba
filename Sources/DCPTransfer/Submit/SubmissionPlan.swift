// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPWire

/// The plan of a submission, from the flags, the file and the registered model, in this order of precedence.
struct SubmissionPlan: Sendable {
    let modelName: String
    let sequenceName: String
    let description: ModelDescription
    /// Where the file's tokens must begin; nil for wherever the sequence ends.
    let position: Int?
    /// How many tokens go in chunks; the others go one at a time.
    let prefill: Int
    private let chunk: Int
    private let tokens: Int
    /// Layers of the model that the file does not have. No token can be committed without them.
    let missingLayers: [Int]

    /// - Parameter known: the registered model of that name, if there is one.
    init(
        _ file: SubmitFile, _ options: SubmitOptions, modelName: String, known: ModelDescription?
    ) throws(ServiceError) {
        self.modelName = modelName
        sequenceName = Self.sequenceName(file, options)
        position = try Self.position(file, options)
        let fileLayers = (file.layers.map(\.index).max() ?? 0) + 1
        let statedLayers = try file.integer("layers", flag: options.layers)
        let known = options.description ?? known
        let layers = statedLayers ?? known?.layers ?? fileLayers
        guard fileLayers <= layers else {
            throw ServiceError(
                .invalidRequest,
                "\(file.path) has a layer \(fileLayers - 1), but model `\(modelName)` has layers 0..<\(layers); "
                    + "correct --layer or --layers.")
        }
        description = try file.description(options, layers: layers, known: known)
        missingLayers = Set(0..<layers).subtracting(file.layers.map(\.index)).sorted()
        // The number of layers is a guess here: a missing layer in the middle may never be sent.
        guard missingLayers.isEmpty || statedLayers != nil || known != nil || options.layer != nil else {
            let missing = missingLayers.map(String.init).joined(separator: ", ")
            throw ServiceError(
                .invalidRequest,
                "\(file.path) has a layer \(fileLayers - 1) but lacks \(missing), so no token of the new model "
                    + "`\(modelName)` could be committed; add the missing layers, or give --layers to compute "
                    + "without a commit."
            )
        }
        let prefill = try file.integer("prefill_tokens", flag: options.prefill) ?? file.tokens
        guard (0...file.tokens).contains(prefill) else {
            throw ServiceError(
                .invalidRequest,
                "A prefill of \(prefill) tokens is outside 0...\(file.tokens), the number of tokens in the file; "
                    + "correct --prefill.")
        }
        guard (1...StepRequest.tokensMax).contains(options.chunk) else {
            throw ServiceError(
                .invalidRequest,
                "A chunk of \(options.chunk) tokens is outside 1...\(StepRequest.tokensMax); correct --chunk.")
        }
        self.prefill = prefill
        chunk = options.chunk
        tokens = file.tokens
    }

    private static func position(_ file: SubmitFile, _ options: SubmitOptions) throws(ServiceError) -> Int? {
        guard let position = try file.integer("position", flag: options.position) else { return nil }
        guard (0...WireReader.lengthMax - file.tokens).contains(position) else {
            throw ServiceError(
                .invalidRequest,
                "\(file.path): \(file.tokens) tokens at position \(position) are outside 0...\(WireReader.lengthMax), the "
                    + "longest sequence; correct the metadata's position, or --position.")
        }
        return position
    }

    /// The token ranges of the steps from one of the file's tokens on: chunks of prefill, then single tokens.
    func chunks(from start: Int) -> [Range<Int>] {
        let chunks = stride(from: start, to: prefill, by: chunk).map { $0..<min($0 + chunk, prefill) }
        return chunks + (max(start, prefill)..<max(start, tokens)).map { $0..<$0 + 1 }
    }

    static func modelName(_ file: SubmitFile, _ options: SubmitOptions) -> String {
        options.model ?? file.metadata["model"] ?? file.baseName
    }

    static func sequenceName(_ file: SubmitFile, _ options: SubmitOptions) -> String {
        options.sequence ?? file.metadata["sequence"] ?? file.baseName
    }
}

extension SubmitFile {
    /// The file's name without folders and ending.
    var baseName: String {
        let name = path.split(separator: "/").last.map(String.init) ?? path
        guard let dot = name.lastIndex(of: "."), dot > name.startIndex else { return name }
        return String(name[..<dot])
    }
}
