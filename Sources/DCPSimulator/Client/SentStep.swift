// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPOracle
internal import DCPWire
internal import NIOCore

/// A step as a client sent it, with the answer it must get.
struct SentStep {
    let layer: Int
    let tag: Tag
    private(set) var requests: [RankIndex: StepRequest]
    /// `[tokens][Hq][Dv]` and `[tokens][Hq]`, in Float64 over what the client has sent.
    private let expected: ReferenceAttention.Result
    private let cluster: ClusterShape
    let attention: LayerAttention
    private let tokens: Int
    private let mode: StepRequest.QueryMode

    let limits: InputLimits

    /// Of a float32 computation over at most a few hundred tokens with values up to 4.
    private static let tolerance = 2e-4

    /// Draws the tokens of the entries, appends them to their sequences and prepares what each rank is sent.
    /// - Parameter mode: absent appends them and asks for nothing.
    init(
        _ entries: [(sequence: ModelSequence, count: Int)], claims: [String: Claim], layer: Int, tag: Tag,
        model: ModelRecord,
        cluster: ClusterShape, mode: StepRequest.QueryMode, timeout: Duration, random: inout SeededGenerator
    ) {
        self.init(
            entries.map { ($0.sequence, $0.sequence.layers[layer].count, $0.count) }, appends: true, claims: claims,
            layer: layer, tag: tag, model: model, cluster: cluster, mode: mode, timeout: timeout, random: &random)
    }

    /// The same without appending: queries at positions that the sequences have.
    init(
        queriesAt entries: [(sequence: ModelSequence, position: Int, count: Int)], claims: [String: Claim], layer: Int,
        tag: Tag, model: ModelRecord, cluster: ClusterShape, mode: StepRequest.QueryMode, timeout: Duration,
        random: inout SeededGenerator
    ) {
        self.init(
            entries, appends: false, claims: claims, layer: layer, tag: tag, model: model, cluster: cluster, mode: mode,
            timeout: timeout, random: &random)
    }

    private init(
        _ entries: [(sequence: ModelSequence, position: Int, count: Int)], appends: Bool, claims: [String: Claim],
        layer: Int, tag: Tag, model: ModelRecord, cluster: ClusterShape, mode: StepRequest.QueryMode,
        timeout: Duration, random: inout SeededGenerator
    ) {
        let attention = model.description[layer]
        self.layer = layer
        self.tag = tag
        self.cluster = cluster
        self.attention = attention
        self.mode = mode
        limits = InputLimits(attention, kvFormat: model.description.kvFormat)
        tokens = entries.reduce(0) { $0 + $1.count }
        let reference = ReferenceAttention(attention)
        var joined = ReferenceAttention.Result(outputs: [], lse: [])
        var queries: [Float] = []
        var keys: [Float] = []
        var values: [Float] = []
        var wire: [StepRequest.Entry] = []
        for (sequence, position, count) in entries {
            if appends {
                let k = random.distinctRows(tokens: count, heads: attention.kvHeads, dim: attention.keyDim, limit: 2)
                let v = random.distinctRows(
                    tokens: count, heads: attention.kvHeads, dim: attention.ownValueDim, limit: 4)
                sequence.append(layer, k, v, tokens: count)
                keys += k
                values += v
            }
            if mode != .absent {
                let q = random.floats(count * attention.queryHeads * attention.keyDim, limit: 2)
                let held = sequence.layers[layer]
                let part = reference.attend(
                    queries: q, keys: held.keys, values: held.values, position: position,
                    sinks: sequence.model.sinks[layer])
                joined.outputs += part.outputs
                joined.lse += part.lse
                queries += q
            }
            wire.append(
                StepRequest.Entry(
                    sequence: sequence.record!.id, position: position, count: count, claim: claims[sequence.name]!))
        }
        expected = joined
        let partition = cluster.partition(of: attention)
        let tokens = tokens
        /// `[heads][chosen][dim]` of rows `[tokens][all][dim]`.
        func numbers(_ rows: [Float], all: Int, _ heads: Range<Int>, _ chosen: [Int], _ dim: Int) -> [Float] {
            heads.flatMap { head in
                chosen.flatMap { token in rows[(token * all + head) * dim..<(token * all + head + 1) * dim] }
            }
        }
        var requests: [RankIndex: StepRequest] = [:]
        for rank in cluster.allRanks {
            let group = cluster.headGroup(of: rank)
            let own = Self.ownHeads(of: rank, cluster, partition)
            let all = group * partition.queryHeads..<(group + 1) * partition.queryHeads
            let heads = mode == .absent ? 0..<0 : mode == .replicate ? all : own
            let owned = Self.ownedTokens(of: wire, cluster.contextRank(of: rank), cluster.layout)
            let brought = !appends ? [] : mode == .absent ? owned : Array(0..<tokens)
            let kvHeads = group * partition.kvHeads..<(group + 1) * partition.kvHeads
            let tensors =
                numbers(queries, all: attention.queryHeads, heads, Array(0..<tokens), attention.keyDim)
                + numbers(keys, all: attention.kvHeads, kvHeads, brought, attention.keyDim)
                + numbers(values, all: attention.kvHeads, kvHeads, brought, attention.ownValueDim)
            requests[rank] = StepRequest(
                model: model.id, queryMode: mode, appends: appends, wantsLSE: true,
                timeoutMilliseconds: UInt32(timeout.nanoseconds / 1_000_000), entries: wire,
                queryDataType: .float32, keyValueDataType: .float32, queryHeads: heads.count, kvHeads: kvHeads.count,
                keyDim: attention.keyDim, valueDim: attention.ownValueDim, keyValueTokens: brought.count,
                tensors: ByteBuffer(bytes: tensors.withUnsafeBytes { [UInt8]($0) }))
        }
        self.requests = requests
    }

    var commits: [SequenceCommit] { requests.values.first?.commits ?? [] }

    /// Every rank is to commit these when it has the step's tokens.
    mutating func commit(_ parts: [SequenceCommit]) {
        for rank in requests.keys { requests[rank]!.commits = parts }
    }

    /// Token by token, and not as `ContextLayout` finds them for a client.
    private static func ownedTokens(
        of entries: [StepRequest.Entry], _ rank: Int, _ layout: ContextLayout
    ) -> [Int] {
        entries.flatMap { Array($0.positions) }.enumerated().filter { layout.owner(ofPosition: $0.element) == rank }
            .map(\.offset)
    }

    private static func ownHeads(
        of rank: RankIndex, _ cluster: ClusterShape, _ partition: HeadPartition
    ) -> Range<Int> {
        let start = cluster.headGroup(of: rank) * partition.queryHeads
        let own = partition.ownHeads(ofRank: cluster.contextRank(of: rank))
        return start + own.lowerBound..<start + own.upperBound
    }

    func contextRank(of rank: RankIndex) -> Int { cluster.contextRank(of: rank) }

    /// What is wrong with a rank's answer; nil when it is the reference's.
    func fault(in result: StepResult, from rank: RankIndex) -> String? {
        let heads = mode == .absent ? 0..<0 : Self.ownHeads(of: rank, cluster, cluster.partition(of: attention))
        guard result.heads == heads.count, result.tokens == tokens, result.valueDim == attention.valueDim,
            let lse = result.lse
        else { return "it has the shape [\(result.heads), \(result.tokens), \(result.valueDim)]" }
        func float(_ buffer: ByteBuffer, _ index: Int) -> Double {
            let bits: UInt32 = buffer.getInteger(at: buffer.readerIndex + index * 4, endianness: .little) ?? 0x7fc0_0000
            return Double(Float(bitPattern: bits))
        }
        for (slot, head) in heads.enumerated() {
            for token in 0..<tokens {
                let row = token * attention.queryHeads + head
                let found = float(lse, slot * tokens + token)
                guard abs(found - expected.lse[row]) <= Self.tolerance * max(1, abs(expected.lse[row])) else {
                    return "the LSE of head \(head), token \(token) is \(found), not \(expected.lse[row])"
                }
                for dim in 0..<attention.valueDim {
                    let found = float(result.outputs, (slot * tokens + token) * attention.valueDim + dim)
                    let wanted = expected.outputs[row * attention.valueDim + dim]
                    guard abs(found - wanted) <= Self.tolerance * 4 else {
                        return "output \(dim) of head \(head), token \(token) is \(found), not \(wanted)"
                    }
                }
            }
        }
        return nil
    }
}
