public import DCPCore
public import DCPWire
internal import NIOCore

extension Cluster {
    /// Appends keys and values of one layer without attention: a step without queries, under the rules of steps.
    ///
    /// - Parameters:
    ///   - keys: `[tokens][Hkv][Dk]`, the entries' tokens one after the other.
    ///   - values: `[tokens][Hkv][Dv]`, of the same dtype as `keys`; nil where they are a part of the keys.
    /// - Throws: as `step`; after any error call `resume` before going on.
    public func append(
        layer: Int, _ entries: [StepRequest.Entry], model: ModelRecord, keys: TokenRows, values: TokenRows?
    ) async throws(ServiceError) {
        let tokens = entries.reduce(0) { $0 + $1.count }
        let attention = try model.attention(ofLayer: layer)
        try Self.check(keys, values, tokens, attention)
        let topology = try await readyTopology()
        let entries = try await claimed(entries, in: topology.epoch)
        let groupHeads = attention.kvHeads / topology.shape.headGroups
        let requests = topology.shape.allRanks.map { rank in
            let group = topology.shape.headGroup(of: rank)
            let heads = group * groupHeads..<(group + 1) * groupHeads
            return (
                rank: rank,
                request: StepRequest(
                    model: model.id, queryMode: .absent, wantsLSE: false,
                    timeoutMilliseconds: UInt32(clamping: Int(timeouts.step / .milliseconds(1))), entries: entries,
                    queryDataType: keys.dataType, keyValueDataType: keys.dataType, queryHeads: 0,
                    kvHeads: groupHeads, keyDim: attention.keyDim, valueDim: attention.ownValueDim,
                    queries: ByteBuffer(),
                    keys: keys.headMajor(heads), values: values?.headMajor(heads) ?? ByteBuffer())
            )
        }
        let replies = try await ask(
            requests, topology: topology,
            tag: Tag(client: client, number: takeNumber(), layer: UInt32(layer)), timeout: timeouts.step + .seconds(2))
        for ((rank, _), result) in zip(requests, replies) {
            guard result.tokens == tokens, result.heads == 0 else {
                throw Self.unexpected("outputs of \(result.heads) heads and \(result.tokens) tokens", from: "\(rank)")
            }
        }
    }
}
