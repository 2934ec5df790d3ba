// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPSafetensors

/// A file of expected results, compared as they come.
struct Expectation {
    private let file: SafetensorsFile

    /// - Throws: `.invalidRequest` when a tensor is missing or of another shape.
    init(_ path: String, for submitted: SubmitFile) throws(ServiceError) {
        file = try SafetensorsFile.open(path)
        for layer in submitted.layers {
            try check(layer.prefix + "o", [submitted.tokens, layer.queryHeads, layer.valueDim])
            try check(layer.prefix + "lse", [submitted.tokens, layer.queryHeads])
        }
    }

    private func check(_ name: String, _ shape: [Int]) throws(ServiceError) {
        let tensor = try file.tensor(named: name)
        guard tensor.shape == shape else {
            throw ServiceError(
                .invalidRequest,
                "\(file.path): tensor \(name) has shape \(tensor.shape), but the results have \(shape); is this the "
                    + "expected file for another input?")
        }
    }

    /// The largest absolute difference of some tokens' values. A NaN on either side counts as infinite.
    func errorMax(of values: [Float], tensor name: String, tokens: Range<Int>) throws(ServiceError) -> Float {
        let expected = try file.tensor(named: name).floats(rows: tokens)
        precondition(expected.count == values.count)
        var worst: Float = 0
        for (value, wanted) in zip(values, expected) where value != wanted {
            let difference = abs(value - wanted)
            worst = difference.isNaN ? .infinity : max(worst, difference)
        }
        return worst
    }
}
