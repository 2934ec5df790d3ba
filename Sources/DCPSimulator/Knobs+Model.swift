// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPOracle

extension Knobs {
    /// Draws a model: layers of one kind, or of up to three that share nothing but what the cluster asks for.
    static func model(of cluster: ClusterShape, _ random: inout SeededGenerator) throws(ServiceError)
        -> ModelDescription
    {
        var kinds: [LayerAttention] = []
        let kvFormat = pick(CacheFormat.allCases, &random)
        for _ in 0..<pick([1, 1, 2, 3], &random) { kinds.append(try kind(of: cluster, kvFormat, &random)) }
        // Each kind has a layer.
        let layers = kinds + (0..<pick([0, 0, 1, 2], &random)).map { _ in pick(kinds, &random) }
        let sinks = layers.map { random.floats($0.hasSinks ? $0.queryHeads : 0, limit: 8) }
        return try ModelDescription(
            layers: layers, kvFormat: kvFormat, sinks: sinks,
            revision: pick([nil, "9f2c", "9f2c/theta=10000"], &random))
    }

    /// Of the layer with the largest blocks.
    var uncommittedByteCountMax: Int? {
        uncommittedBlocks.map { blocks in
            let row =
                (0..<model.layers).map { model[$0].keptByteCount(model.kvFormat) / shape.headGroups }.max() ?? 0
            return blocks * shape.layout.blockTokens * row
        }
    }

    private static func kind(
        of cluster: ClusterShape, _ kvFormat: CacheFormat, _ random: inout SeededGenerator
    ) throws(ServiceError) -> LayerAttention {
        let kvHeads = cluster.headGroups * pick(cluster.headGroups == 1 ? [1, 2, 3] : [1, 1, 2], &random)
        return try LayerAttention(
            queryHeads: kvHeads * pick([1, 2, 3], &random), kvHeads: kvHeads, keyDim: pick([8, 8, 12], &random),
            // Also blocks, and rows, of several pages.
            values: pick(
                kvFormat.hasScales ? [.own(8), .own(12), .own(136)] : [.own(8), .own(10), .own(136), .leading(8)],
                &random),
            scale: 0.4,
            softcap: pick([nil, nil, 20], &random), visibility: visibility(of: cluster, &random),
            hasSinks: pick([false, false, true], &random))
    }

    /// All tokens, or a window: of few, about as long as a run or a block of a rank, across several, longer than any context.
    private static func visibility(of cluster: ClusterShape, _ random: inout SeededGenerator) -> Visibility {
        guard pick([false, true], &random) else { return .all }
        let (run, block) = (cluster.layout.interleave, cluster.layout.blockTokens)
        return .window(
            pick([1, 2, 3, max(1, run - 1), run, run + 1, block - 1, block, block + 1, 40, 90, 1000], &random))
    }

    static func pick<Value>(_ values: [Value], _ random: inout SeededGenerator) -> Value {
        values.randomElement(using: &random)!
    }
}
