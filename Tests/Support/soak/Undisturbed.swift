// SPDX-License-Identifier: Apache-2.0

import DCPClient
import DCPCore
import DCPTestKit
import DCPTransport
import DCPWire

/// The answers of a cluster that nobody disturbs, which every answer is compared with bit by bit.
struct Undisturbed: Sendable {
    /// By story, step and layer.
    let answers: [[[AnswerBits]]]

    /// Where bytes are multiplied, queries and weights have 16 bits.
    private static func errorMax(_ format: CacheFormat) -> Double { format == .int8 ? 5e-4 : 1e-5 }

    /// Plays each story from its beginning, and compares the answers with attention in Float64.
    static func play(_ stories: [Story], model name: String, on cluster: Cluster) async throws -> Undisturbed {
        var answers: [[[AnswerBits]]] = []
        for (index, story) in stories.enumerated() {
            let model = try await cluster.registerModel(name, story.shape)
            let sequence = try await cluster.openSequence("undisturbed-\(index)", model: name)
            var steps: [[AnswerBits]] = []
            for (step, range) in story.steps.enumerated() {
                var layers: [AnswerBits] = []
                for layer in 0..<story.shape.layers {
                    let rows = story.rows(step, layer: layer)
                    let output = try await cluster.step(
                        layer: layer, [sequence.entry(position: range.lowerBound, count: range.count)], model: model,
                        queries: rows.queries, keys: rows.keys, values: rows.values)
                    // Each of a story's own steps once in a while: Float64 is slow.
                    if step % 7 == 0 || step == story.steps.count - 1 {
                        try check(
                            output, story.reference(step, layer: layer), within: errorMax(story.shape.kvFormat),
                            "story \(index), step \(step)")
                    }
                    layers.append(AnswerBits(output))
                }
                steps.append(layers)
                try await cluster.commit([SequenceLength(sequence: sequence.record.id, length: range.upperBound)])
            }
            answers.append(steps)
        }
        return Undisturbed(answers: answers)
    }

    private static func check(
        _ output: AttentionOutput, _ reference: ReferenceAttention.Result, within errorMax: Double, _ what: String
    ) throws {
        for (values, expected) in [(output.outputs, reference.outputs), (output.lse, reference.lse)] {
            for (value, wanted) in zip(values, expected) {
                guard abs(Double(value) - wanted) <= errorMax else {
                    throw SoakFailure("\(what): \(value) where Float64 has \(wanted), without any disturbance")
                }
            }
        }
    }
}

/// Something is wrong with the system under test.
struct SoakFailure: Error, CustomStringConvertible {
    let description: String

    init(_ description: String) { self.description = description }
}
