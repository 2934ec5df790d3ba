// SPDX-License-Identifier: Apache-2.0

import DCPCore
import DCPSafetensors
import DCPTestKit
import Foundation
import Testing

/// What a model's own implementation computed: queries, keys and values of its layers, and their attention.
struct ModelTrace: Sendable {
    let name: String
    let trace: Trace
    /// By layer, of all tokens.
    let expected: [ReferenceAttention.Result]
    /// By layer, of a Float32 computation.
    private let tolerances: [(output: Double, lse: Double)]
    private let prefillTokens: Int

    /// Those in `Tests/Fixtures`.
    static let fixtures = repositoryFile("Tests/Fixtures/attention-kinds")
    static let fixtureNames = ["mistral-window", "gpt-oss", "starcoder-mqa", "deepseek-v3", "gemma2"]

    /// - Parameter directory: with `NAME.safetensors` and `NAME-expected.safetensors`, see the README of the fixtures.
    init(_ name: String, in directory: String = fixtures) throws {
        self.name = name
        let file = try SafetensorsFile.open("\(directory)/\(name).safetensors")
        let answers = try SafetensorsFile.open("\(directory)/\(name)-expected.safetensors")
        prefillTokens = try #require(file.metadata["prefill_tokens"].flatMap { Int($0) })
        let layers = try (0..<#require(file.metadata["layers"].flatMap { Int($0) })).map {
            try Self.layer($0, of: file)
        }
        expected = try layers.indices.map { layer in
            ReferenceAttention.Result(
                outputs: try Self.floats(answers, "layers.\(layer).o").values.map { Double($0) },
                lse: try Self.floats(answers, "layers.\(layer).lse").values.map { Double($0) })
        }
        let kinds = layers.map(\.kind)
        let description = try ModelDescription(
            layers: kinds, kvFormat: .bfloat16, sinks: layers.map(\.sinks), revision: name)
        var trace = Trace(
            description, tokens: layers[0].rows.queries.count / kinds[0].queryHeads / kinds[0].keyDim,
            layers: layers.map(\.rows))
        // The files hold what was attended over, in bf16.
        trace.wireType = .bfloat16
        self.trace = trace
        tolerances = zip(kinds, trace.layers).map { kind, rows in
            // The files' own outputs are rounded to Float32, and off by up to 1e-6 for it.
            let tolerance = ReferenceAttention(kind).tolerance(queries: rows.queries, keys: rows.keys) + 2e-6
            let largest = (rows.values.isEmpty ? rows.keys : rows.values).reduce(1) { max($0, abs($1)) }
            // Kernels round weights: see the article *Kernels*.
            return ((tolerance + 0x1p-17) * Double(largest), tolerance)
        }
    }

    private static func floats(_ file: SafetensorsFile, _ name: String) throws -> (values: [Float], shape: [Int]) {
        let tensor = try file.tensor(named: name)
        return (try tensor.floats(rows: 0..<tensor.rowCount), tensor.shape)
    }

    private static func layer(
        _ layer: Int, of file: SafetensorsFile
    ) throws -> (kind: LayerAttention, sinks: [Float], rows: Trace.Layer) {
        let prefix = "layers.\(layer)."
        func number<Number: LosslessStringConvertible>(_ name: String, as type: Number.Type) -> Number? {
            file.metadata[prefix + name].flatMap { Number($0) }
        }
        let (queries, keys) = (try floats(file, prefix + "q"), try floats(file, prefix + "k"))
        let leading = number("value_dim", as: Int.self)
        let values = leading == nil ? try floats(file, prefix + "v") : ([], [])
        let sinks = file.entry(named: prefix + "sinks") == nil ? [] : try floats(file, prefix + "sinks").values
        let kind = try LayerAttention(
            queryHeads: queries.shape[1], kvHeads: keys.shape[1], keyDim: keys.shape[2],
            values: try leading.map { .leading($0) } ?? .own(#require(values.1.last)),
            scale: #require(number("scale", as: Float.self)), softcap: number("softcap", as: Float.self),
            visibility: number("window", as: Int.self).map { .window($0) } ?? .all, hasSinks: !sinks.isEmpty)
        return (kind, sinks, Trace.Layer(queries: queries.values, keys: keys.values, values: values.0))
    }

    /// Steps of so many tokens while the model read, and of one while it wrote.
    func cuts(chunk: Int) -> Cuts {
        Cuts(Array(stride(from: 0, to: prefillTokens, by: chunk)) + Array(prefillTokens...trace.tokens))
    }

    /// Whether a cluster may divide the heads like this.
    func fits(headGroups: Int) -> Bool { trace.shape.kinds.allSatisfy { $0.kvHeads % headGroups == 0 } }

    func check(_ answers: [Answer], _ what: String, sourceLocation: SourceLocation = #_sourceLocation) {
        for (layer, answer) in answers.enumerated() {
            let (output, lse) = answer.errors(expected[layer])
            #expect(
                output <= tolerances[layer].output && lse <= tolerances[layer].lse,
                "\(name), \(what), layer \(layer): o off by \(output), lse by \(lse), allowed \(tolerances[layer])",
                sourceLocation: sourceLocation)
        }
    }
}
