// SPDX-License-Identifier: Apache-2.0

import DCPClient
import DCPCore
import DCPWire

/// Shapes by their figures.
func shape(
    layers: Int = 1, _ queryHeads: Int, _ kvHeads: Int, _ keyDim: Int, _ valueDim: Int, _ format: CacheFormat,
    softcap: Float? = nil
) throws -> ModelDescription {
    try ModelDescription(
        layers: layers, queryHeads: queryHeads, kvHeads: kvHeads, keyDim: keyDim, valueDim: valueDim,
        scale: LayerAttention.defaultScale(keyDim: keyDim), softcap: softcap, kvFormat: format)
}

/// A layer with a window and sinks, one whose values are the first dimensions of its keys, and one that sees all: three
/// kinds with dimensions of their own.
func mixedShape(_ format: CacheFormat = .bfloat16) throws -> ModelDescription {
    func kind(
        _ heads: Int, _ kvHeads: Int, _ keyDim: Int, _ values: LayerAttention.Values, softcap: Float? = nil,
        visibility: Visibility = .all, hasSinks: Bool = false
    ) throws -> LayerAttention {
        try LayerAttention(
            queryHeads: heads, kvHeads: kvHeads, keyDim: keyDim, values: values,
            scale: LayerAttention.defaultScale(keyDim: keyDim), softcap: softcap, visibility: visibility,
            hasSinks: hasSinks)
    }
    return try ModelDescription(
        layers: [
            kind(6, 2, 16, .own(24), softcap: 20, visibility: .window(50), hasSinks: true),
            kind(8, 2, 40, .leading(32)), kind(4, 4, 16, .own(16)),
        ], kvFormat: format, sinks: [[-2, 0, 0.5, 1, 2.25, 4], [], []], revision: "mixed")
}

/// When a conversation is made durable while it is played.
enum CommitRule: Sendable {
    case never
    case everyStep
    case atEnd
}

/// The positions where steps begin and end, rising.
struct Cuts: Sendable {
    var positions: [Int]

    init(_ positions: [Int]) { self.positions = Set(positions).sorted() }

    /// From counts, beginning at a position.
    init(from position: Int = 0, counts: [Int]) {
        positions = counts.reduce(into: [position]) { $0.append($0.last! + $1) }
    }

    var end: Int { positions.last ?? 0 }
    var ranges: [Range<Int>] { zip(positions, positions.dropFirst()).map { $0..<$1 } }
}

extension Cluster {
    /// One step over a trace's tokens at their own positions.
    func step(
        _ trace: Trace, _ range: Range<Int>, layer: Int = 0, on sequence: SequenceHandle,
        mode: StepRequest.QueryMode? = .gather
    ) async throws(ServiceError) -> AttentionOutput {
        let rows = trace.rows(layer, range)
        return try await step(
            layer: layer, [sequence.entry(position: range.lowerBound, count: range.count)], model: sequence.model,
            queries: rows.queries, keys: rows.keys, values: rows.values, queryMode: mode)
    }

    func commit(_ sequence: SequenceHandle, _ length: Int) async throws(ServiceError) {
        try await commit([SequenceLength(sequence: sequence.record.id, length: length)])
    }

    /// Plays a trace, or a part of one, through all layers.
    /// - Returns: by layer, the answers to the tokens that were played.
    func play(
        _ trace: Trace, _ cuts: Cuts, on sequence: SequenceHandle, mode: StepRequest.QueryMode? = .gather,
        commit rule: CommitRule = .atEnd
    ) async throws(ServiceError) -> [Answer] {
        var answers = [Answer](repeating: Answer(), count: trace.shape.layers)
        for range in cuts.ranges {
            for layer in answers.indices {
                answers[layer].append(try await step(trace, range, layer: layer, on: sequence, mode: mode))
            }
            if rule == .everyStep { try await commit(sequence, range.upperBound) }
        }
        if rule == .atEnd { try await commit(sequence, cuts.end) }
        return answers
    }

    /// Registers the trace's model and opens a new sequence of it.
    func open(_ trace: Trace, _ name: String, model: String? = nil) async throws(ServiceError) -> SequenceHandle {
        let model = model ?? "model-of-\(name)"
        try await registerModel(model, trace.shape)
        return try await openSequence(name, model: model)
    }
}
