public import DCPCore
internal import DCPWire
internal import NIOCore

/// Keys and values as the cache holds them: token-major, all KV heads of the model, in its KV dtype.
public struct CachedRows: Sendable {
    /// `[tokens][Hkv][Dk]`
    public internal(set) var keys: [UInt8]
    /// `[tokens][Hkv][Dv]`; empty where they are a part of the keys.
    public internal(set) var values: [UInt8]
    /// What they were read from.
    public let version: Version

    /// Equal versions are of one uncut sequence: nothing was truncated between the two answers, on any rank.
    public struct Version: Hashable, Sendable {
        var epoch: Epoch
        var generations: [UInt64]
    }
}

extension Cluster {
    /// Reads committed tokens of one layer back from all ranks, bit by bit as they are attended to.
    /// - Throws: `.positionMismatch` above the committed length, `.storeDamaged`, `.invalidRequest` for more than a rank
    ///   answers at once (64 MiB).
    public func rows(
        of sequence: SequenceHandle, layer: Int, positions: Range<Int>
    ) async throws(ServiceError) -> CachedRows {
        let attention = try sequence.model.attention(ofLayer: layer)
        let dataType = sequence.model.description.kvDataType
        let topology = try await readyTopology()
        let shape = topology.shape
        let replies = try await askRanks(
            RowsRequest(
                sequence: sequence.record.id, layer: layer, position: positions.lowerBound, count: positions.count),
            topology: topology)
        var parts: [RowsReply] = []
        for (rank, rows) in zip(shape.allRanks, replies) {
            let owned = shape.layout.localRange(
                ofRank: shape.contextRank(of: rank), from: positions.lowerBound, to: positions.upperBound)
            guard rows.tokens == owned.count,
                rows.dataType == dataType, rows.kvHeads == attention.kvHeads / shape.headGroups,
                rows.keyDim == attention.keyDim, rows.valueDim == attention.ownValueDim
            else { throw Self.unexpected("\(rows.tokens) rows of other dimensions", from: "\(rank)") }
            parts.append(rows)
        }
        let version = CachedRows.Version(epoch: topology.epoch, generations: parts.map(\.generation))
        var rows = CachedRows(attention, dataType, tokens: positions.count, version: version)
        for (rank, part) in zip(shape.allRanks, parts) { rows.insert(part, of: rank, shape, positions) }
        return rows
    }
}

extension CachedRows {
    fileprivate init(_ attention: LayerAttention, _ dataType: DataType, tokens: Int, version: Version) {
        let headByteCount = tokens * attention.kvHeads * dataType.byteCount
        keys = [UInt8](repeating: 0, count: headByteCount * attention.keyDim)
        values = [UInt8](repeating: 0, count: headByteCount * attention.ownValueDim)
        self.version = version
    }

    /// Puts a rank's tokens and heads in their places.
    fileprivate mutating func insert(
        _ part: RowsReply, of rank: RankIndex, _ cluster: ClusterShape, _ positions: Range<Int>
    ) {
        let layout = cluster.layout
        let contextRank = cluster.contextRank(of: rank)
        let first = layout.localLength(ofRank: contextRank, length: positions.lowerBound)
        let tokens = (0..<part.tokens).map {
            layout.position(ofLocalIndex: first + $0, rank: contextRank) - positions.lowerBound
        }
        let group = cluster.headGroup(of: rank)
        func spread(_ source: ByteBuffer, _ target: inout [UInt8], rowByteCount: Int) {
            source.withUnsafeReadableBytes { source in
                target.withUnsafeMutableBytes { target in
                    for (index, token) in tokens.enumerated() {
                        let place = (token * cluster.headGroups + group) * rowByteCount
                        UnsafeMutableRawBufferPointer(rebasing: target[place..<place + rowByteCount]).copyMemory(
                            from: UnsafeRawBufferPointer(
                                rebasing: source[index * rowByteCount..<(index + 1) * rowByteCount]))
                    }
                }
            }
        }
        let headByteCount = part.kvHeads * part.dataType.byteCount
        spread(part.keys, &keys, rowByteCount: headByteCount * part.keyDim)
        spread(part.values, &values, rowByteCount: headByteCount * part.valueDim)
    }
}
