// SPDX-License-Identifier: Apache-2.0

import DCPCore
import DCPSafetensors
import DCPTestKit
import Foundation

extension Trace {
    /// Writes some tokens as `dcpctl submit` takes them.
    /// - Parameter layer: only this one, as `q`, `k`, `v`; nil writes all, as `layers.<l>.q` and so on.
    /// - Parameter ids: one for each of these tokens.
    func write(
        _ range: Range<Int>? = nil, layer: Int? = 0, ids: [UInt32]? = nil, to path: String,
        metadata: [String: String] = [:]
    ) throws {
        let range = range ?? 0..<tokens
        let written = layer.map { [$0] } ?? Array(layers.indices)
        var tensors: [(SafetensorsWriter.Declaration, [Float])] = []
        for index in written {
            let (prefix, kind) = (layer == nil ? "layers.\(index)." : "", shape[index])
            for (name, rows, heads, dim) in [
                ("q", layers[index].queries, kind.queryHeads, kind.keyDim),
                ("k", layers[index].keys, kind.kvHeads, kind.keyDim),
                ("v", layers[index].values, kind.kvHeads, kind.ownValueDim),
            ] where dim > 0 {
                tensors.append(
                    (
                        .init(name: prefix + name, dataType: wireType, shape: [range.count, heads, dim]),
                        Array(rows[range.lowerBound * heads * dim..<range.upperBound * heads * dim])
                    ))
            }
        }
        var declared = tensors.map(\.0)
        if let ids { declared.append(.init(name: "token_ids", elements: .uint32, shape: [ids.count])) }
        let writer = try SafetensorsWriter(path: path, tensors: declared, metadata: metadata)
        try ids?.withUnsafeBytes { bytes throws in try writer.append(bytes, to: "token_ids") }
        for (tensor, values) in tensors {
            try Rounding.bytes(values, as: wireType).withUnsafeBytes { bytes throws in
                try writer.append(bytes, to: tensor.name)
            }
        }
        try writer.finish()
    }

    /// Writes one layer's reference as `--expect` takes it.
    func writeReference(_ range: Range<Int>, layer: Int = 0, to path: String, offset: Double = 0) throws {
        let (result, kind) = (reference(layer, range), shape[layer])
        let writer = try SafetensorsWriter(
            path: path,
            tensors: [
                .init(name: "o", dataType: .float32, shape: [range.count, kind.queryHeads, kind.valueDim]),
                .init(name: "lse", dataType: .float32, shape: [range.count, kind.queryHeads]),
            ])
        for (name, values) in [("o", result.outputs), ("lse", result.lse)] {
            try values.map { Float($0 + offset) }.withUnsafeBytes { bytes throws in
                try writer.append(bytes, to: name)
            }
        }
        try writer.finish()
    }
}

extension Answer {
    /// Reads what `dcpctl submit --output` wrote.
    init(file path: String, prefix: String = "") throws {
        let file = try SafetensorsFile.open(path)
        let (outputs, lse) = (try file.tensor(named: prefix + "o"), try file.tensor(named: prefix + "lse"))
        self.init(
            outputs: try outputs.floats(rows: 0..<outputs.rowCount), lse: try lse.floats(rows: 0..<lse.rowCount))
    }
}

/// The bytes of a safetensors file whose header need not be true.
func safetensorsBytes(_ header: String, data: [UInt8] = [], headerByteCount: UInt64? = nil) -> Data {
    let text = Array(header.utf8)
    let length = headerByteCount ?? UInt64(text.count)
    return Data((0..<8).map { UInt8(truncatingIfNeeded: length >> ($0 * 8)) } + text + data)
}
