// SPDX-License-Identifier: Apache-2.0

import DCPAttention
import DCPCore
import DCPSafetensors
import DCPTestKit
import Foundation
import Testing

/// What a model's own implementation computed: a layer of `Tests/Fixtures/attention-kinds`.
private struct KindTrace {
    let step: StepCase
    let inputs: StepCase.Inputs
    let expected: ReferenceAttention.Result
    let tokens: Int
    let prefillTokens: Int

    init(_ name: String) throws {
        let directory = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent().path
        let path = directory + "/Fixtures/attention-kinds/" + name
        let trace = try SafetensorsFile.open(path + ".safetensors")
        let answers = try SafetensorsFile.open(path + "-expected.safetensors")
        func floats(_ file: SafetensorsFile, _ name: String) throws -> (values: [Float], shape: [Int]) {
            let tensor = try file.tensor(named: "layers.0." + name)
            return (try tensor.floats(rows: 0..<tensor.rowCount), tensor.shape)
        }
        func number<Number: LosslessStringConvertible>(_ name: String, as type: Number.Type) -> Number? {
            trace.metadata[name].flatMap { Number($0) }
        }
        let (queries, shape) = try floats(trace, "q")
        let keys = try floats(trace, "k")
        let valueDim = number("layers.0.value_dim", as: Int.self)
        let values = valueDim == nil ? try floats(trace, "v") : ([], [])
        tokens = shape[0]
        prefillTokens = try #require(number("prefill_tokens", as: Int.self))
        inputs = StepCase.Inputs(queries: queries, keys: keys.values, values: values.0)
        expected = ReferenceAttention.Result(
            outputs: try floats(answers, "o").values.map { Double($0) },
            lse: try floats(answers, "lse").values.map { Double($0) })
        step = StepCase(
            kvHeads: keys.shape[1], group: shape[1] / keys.shape[1], keyDim: shape[2],
            values: try valueDim.map { .leading($0) } ?? .own(#require(values.1.last)),
            visibility: number("layers.0.window", as: Int.self).map { .window($0) } ?? .all,
            scale: number("layers.0.scale", as: Float.self),
            sinks: trace.entry(named: "layers.0.sinks") == nil ? [] : try floats(trace, "sinks").values,
            context: 0, count: 1)
    }

    /// A step over some of the tokens: what goes in, and what has to come out.
    func part(_ range: Range<Int>) throws -> (inputs: StepCase.Inputs, expected: ReferenceAttention.Result) {
        let attention = try step.attention
        func some<Element>(_ all: [Element], _ width: Int, _ range: Range<Int>) -> [Element] {
            Array(all[range.lowerBound * width..<range.upperBound * width])
        }
        let seen = 0..<range.upperBound
        return (
            StepCase.Inputs(
                queries: some(inputs.queries, step.heads * step.keyDim, range),
                keys: some(inputs.keys, step.kvHeads * step.keyDim, seen),
                values: some(inputs.values, step.kvHeads * attention.ownValueDim, seen)),
            ReferenceAttention.Result(
                outputs: some(expected.outputs, step.heads * attention.valueDim, range),
                lse: some(expected.lse, step.heads, range))
        )
    }
}

@Suite("traces of models")
struct TraceTests {
    @Test(
        "prefill in chunks and decode over any ranks give what transformers computed",
        arguments: ["mistral-window", "gpt-oss", "starcoder-mqa", "deepseek-v3"], AttentionKernels.available)
    func kinds(name: String, kernels: AttentionKernels) throws {
        let trace = try KindTrace(name)
        for (ranks, interleave, chunk) in [(1, 1, 101), (2, 1, 40), (4, 16, 7), (3, 48, 33)] {
            var start = 0
            while start < trace.tokens {
                let isPrefill = start < trace.prefillTokens
                let range = start..<(isPrefill ? min(start + chunk, trace.prefillTokens) : start + 1)
                start = range.upperBound
                var step = trace.step
                step.ranks = ranks
                step.interleave = interleave
                step.context = range.lowerBound
                step.count = range.count
                step.kernels = kernels
                let (inputs, expected) = try trace.part(range)
                let partials = try (0..<ranks).map { try step.partial(inputs, rank: $0, overAll: false) }
                let difference = Difference(
                    try step.merged(inputs, partials: partials), expected, tokens: range.count)
                let largest = (inputs.values.isEmpty ? inputs.keys : inputs.values).reduce(1) { max($0, abs($1)) }
                // The files' own outputs are rounded to Float32, and off by up to 1e-6 for it.
                let tolerance = try step.tolerance(inputs) + 2e-6
                #expect(
                    difference.output <= (tolerance + 0x1p-17) * Double(largest) && difference.lse <= tolerance,
                    "\(name), \(step): o off by \(difference.output), lse by \(difference.lse)")
            }
        }
    }

    @Test(
        "the reference is what transformers computed",
        arguments: ["mistral-window", "gpt-oss", "starcoder-mqa", "deepseek-v3"])
    func reference(name: String) throws {
        let trace = try KindTrace(name)
        let result = ReferenceAttention(try trace.step.attention).attend(
            queries: trace.inputs.queries, keys: trace.inputs.keys, values: trace.inputs.values, position: 0,
            sinks: trace.step.sinks)
        #expect(zip(result.outputs, trace.expected.outputs).allSatisfy { abs($0 - $1) <= 4e-6 })
        #expect(zip(result.lse, trace.expected.lse).allSatisfy { abs($0 - $1) <= 4e-6 })
    }
}
