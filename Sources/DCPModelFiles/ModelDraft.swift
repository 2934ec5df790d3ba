// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPSafetensors

/// A model's description from a file, before options are added.
struct ModelDraft {
    var layers: [LayerAttention]
    /// By layer; only what the file itself has.
    var sinks: [Int: [Float]] = [:]
    /// What the cache must keep.
    var kvFormat: CacheFormat?
    /// What the weights are in, and so the cache unless somebody says otherwise.
    var weightsDataType: DataType?
    var revision: String?

    /// A value that file and command line may both state.
    /// - Throws: `.invalidModel` with both where they differ.
    static func agreed<Value: Equatable>(
        _ flag: Value?, _ stated: Value?, _ name: String, file: String, text: (Value) -> String
    ) throws(ServiceError) -> Value? {
        if let flag, let stated, flag != stated {
            throw ServiceError(
                .invalidModel,
                "\(file): `\(name)` is \(text(stated)), but the command line says \(text(flag)); correct one of them.")
        }
        return flag ?? stated
    }

    /// The logits of all layers, from the file itself or from others.
    /// - Throws: `.invalidModel` where a layer's are missing, or there are more than the model takes.
    func allSinks(_ others: [SafetensorsFile], file: String) throws(ServiceError) -> [[Float]] {
        let wanted = layers.indices.filter { layers[$0].hasSinks }
        guard !wanted.isEmpty || others.isEmpty else {
            throw ServiceError(.invalidModel, "\(file) describes no layer with sinks; omit --sinks.")
        }
        if let layer = sinks.keys.sorted().first(where: { !wanted.contains($0) }) {
            throw ServiceError(
                .invalidModel,
                "\(file): `sinks.\(layer)` has logits, but there is no layer \(layer) with sinks; correct its kind, "
                    + "or omit the logits."
            )
        }
        var all = [[Float]](repeating: [], count: layers.count)
        for layer in wanted {
            let found = try Self.sinks(layer, queryHeads: layers[layer].queryHeads, in: others)
            guard let logits = sinks[layer] ?? found else {
                let searched = others.map(\.path).joined(separator: ", ")
                throw ServiceError(
                    .invalidModel,
                    "\(file): layer \(layer) has a sink for each query head, whose logits are weights that \(others.isEmpty ? "it" : searched) "
                        + "does not hold; give the checkpoint's files with --sinks (tensors \(Self.tensorNames(layer)[0]))."
                )
            }
            if let found, let own = sinks[layer], found != own {
                throw ServiceError(
                    .invalidModel,
                    "\(file): `sinks.\(layer)` differs from the file given with --sinks; omit one of them.")
            }
            all[layer] = logits
        }
        return all
    }

    private static func tensorNames(_ layer: Int) -> [String] {
        ["model.layers.\(layer).self_attn.sinks", "layers.\(layer).sinks"]
    }

    private static func sinks(
        _ layer: Int, queryHeads: Int, in files: [SafetensorsFile]
    ) throws(ServiceError) -> [Float]? {
        for file in files {
            for name in tensorNames(layer) where file.entry(named: name) != nil {
                let tensor = try file.tensor(named: name)
                guard tensor.shape == [queryHeads] else {
                    throw ServiceError(
                        .invalidModel,
                        "\(file.path): tensor \(name) has shape \(tensor.shape), but layer \(layer) has "
                            + "\(queryHeads) query heads; is the file from another model?")
                }
                if let found = try tensor.firstNonFiniteValue() { throw found.error(file: file.path) }
                return try tensor.floats(rows: 0..<queryHeads)
            }
        }
        return nil
    }
}
