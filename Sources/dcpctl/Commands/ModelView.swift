// SPDX-License-Identifier: Apache-2.0

import DCPConsole
import DCPCore
import DCPWire

/// A model as it is printed.
struct ModelView: Encodable {
    /// nil before it is registered.
    var id: UInt32?
    var name: String
    var revision: String?
    var kvFormat: String
    var layers: Int
    /// Bytes stored per token over all ranks.
    var bytesPerToken: Int
    /// The order of kinds.
    var pattern: String
    var kinds: [Kind]

    struct Kind: Encodable {
        /// First and last of each run.
        var layers: [[Int]]
        var queryHeads: Int
        var kvHeads: Int
        var keyDim: Int
        var valueDim: Int
        /// Whether they are the first dimensions of the keys.
        var hasLeadingValues: Bool
        var scale: Float
        var softcap: Float?
        var window: Int?
        var hasSinks: Bool
        var text: String

        init(_ index: Int, of model: ModelDescription) {
            let kind = model.kinds[index]
            layers = model.runs.filter { $0.kind == index }.map { [$0.layers.lowerBound, $0.layers.upperBound - 1] }
            queryHeads = kind.queryHeads
            kvHeads = kind.kvHeads
            keyDim = kind.keyDim
            valueDim = kind.valueDim
            hasLeadingValues = kind.ownValueDim == 0
            scale = kind.scale
            softcap = kind.softcap
            if case .window(let tokens) = kind.visibility { window = tokens }
            hasSinks = kind.hasSinks
            text = model.kindLines[index]
        }
    }

    init(_ record: ModelRecord) {
        self.init(record.name, record.description)
        id = record.id.value
    }

    init(_ name: String, _ model: ModelDescription) {
        self.name = name
        revision = model.revision
        kvFormat = model.kvFormat.name
        layers = model.layers
        bytesPerToken = model.keptByteCount
        pattern = model.pattern
        kinds = model.kinds.indices.map { Kind($0, of: model) }
    }

    static func table(_ views: [ModelView]) -> String {
        guard !views.isEmpty else { return "No models." }
        var table = TextTable("MODEL", "REVISION", "KV FORMAT", "A TOKEN", "LAYERS", "KINDS")
        for view in views {
            table.append([
                view.name, view.revision ?? "-", view.kvFormat, ByteFormat.format(view.bytesPerToken), "\(view.layers)",
                view.pattern,
            ])
        }
        return table.rendered()
    }

    /// One model, a line for each kind.
    var text: String {
        let order =
            kinds.count == 1
            ? "\(layers) \(layers == 1 ? "layer" : "layers") of one kind"
            : "\(layers) layers of \(kinds.count) kinds: \(pattern)"
        return """
            Model \(name)
            Revision: \(revision ?? "none")
            KV cache: \(kvFormat), \(ByteFormat.format(bytesPerToken)) per token over all ranks
            Layers:   \(order)
            """ + "\n" + kinds.map { "  \($0.text)" }.joined(separator: "\n")
    }
}
