// SPDX-License-Identifier: Apache-2.0

public import DCPCore
internal import DCPWire
internal import NIOCore

/// Keys and values from the cache: token-major, all KV heads of the model, in its cache format.
public struct CachedRows: Sendable {
    /// `[tokens][Hkv][Dk]`
    public internal(set) var keys: [UInt8]
    /// `[tokens][Hkv][Dv]`; empty if they are part of the keys.
    public internal(set) var values: [UInt8]
    /// What they were read from.
    public internal(set) var version: Version

    /// None yet, to read into.
    public init() {
        keys = []
        values = []
        version = Version(epoch: .none, generations: [])
    }

    /// Equal versions mean that nothing was truncated between the two answers on any rank.
    public struct Version: Hashable, Sendable {
        var epoch: Epoch
        var generations: [UInt64]
    }
}

extension Cluster {
    /// Reads committed tokens of one layer from all ranks, bit for bit as used in attention.
    ///
    /// A range of any length is read in pieces, with a few requests in flight at a time.
    /// - Throws: `.positionMismatch` above the committed length, `.storeDamaged`, `.conflict` if the sequence was cut
    ///   during the read.
    public func rows(
        of sequence: SequenceHandle, layer: Int, positions: Range<Int>
    ) async throws(ServiceError) -> CachedRows {
        var rows = CachedRows()
        try await self.rows(of: sequence, layer: layer, positions: positions, into: &rows)
        return rows
    }

    /// Like `rows`, but reuses memory: for readers of many layers or ranges of one size. Fresh memory must be cleared
    /// first, which takes a fifth of the time.
    /// - Parameter rows: the result of an earlier read; undefined after an error.
    public func rows(
        of sequence: SequenceHandle, layer: Int, positions: Range<Int>, into rows: inout CachedRows
    ) async throws(ServiceError) {
        let reading = RowReading(
            sequence: sequence.record.id, layer: layer, attention: try sequence.model.attention(ofLayer: layer),
            dataType: sequence.model.description.kvFormat.rowType, positions: positions,
            topology: try await readyTopology())
        do throws(ServiceError) {
            var connections: [Connection] = []
            for rank in reading.ranks { connections.append(try await connection(to: rank, in: reading.topology)) }
            let pieces = reading.pieces
            var asked = pieces.prefix(RowReading.piecesInFlight).map { ask(reading, $0, connections) }
            rows.prepare(for: reading)
            for (index, piece) in pieces.enumerated() {
                let replies = try await asked[index].result()
                let behind = index + RowReading.piecesInFlight
                if behind < pieces.count { asked.append(ask(reading, pieces[behind], connections)) }
                try rows.insert(replies, piece, reading)
            }
        } catch {
            forgetTopology(after: error)
            throw error
        }
    }

    private func ask(
        _ reading: RowReading, _ piece: Range<Int>, _ connections: [Connection]
    ) -> EventLoopFuture<[RowsReply]> {
        let request = RowsRequest(
            sequence: reading.sequence, layer: reading.layer, position: piece.lowerBound, count: piece.count)
        let tag = Tag(client: client, number: takeNumber())
        let futures = connections.map {
            $0.request(request, epoch: reading.topology.epoch, tag: tag, timeout: timeouts.request)
        }
        return EventLoopFuture.whenAllSucceed(futures, on: eventLoop)
    }
}

extension CachedRows {
    /// Room for what is read; whatever is in it, every byte is overwritten: each position and head is a rank's, and no answer is
    /// missing.
    fileprivate mutating func prepare(for reading: RowReading) {
        func make(_ bytes: inout [UInt8], _ dim: Int) {
            let byteCount = reading.positions.count * reading.attention.kvHeads * dim * reading.dataType.byteCount
            guard bytes.count != byteCount else { return }
            bytes = []
            bytes = [UInt8](unsafeUninitializedCapacity: byteCount) { memory, count in
                ProcessMemory.adviseHugePages(UnsafeMutableRawBufferPointer(memory))
                count = byteCount
            }
        }
        make(&keys, reading.attention.keyDim)
        make(&values, reading.attention.ownValueDim)
        version = Version(epoch: reading.topology.epoch, generations: [])
    }

    fileprivate mutating func insert(
        _ replies: [RowsReply], _ piece: Range<Int>, _ reading: RowReading
    ) throws(ServiceError) {
        let shape = reading.topology.shape
        let attention = reading.attention
        var generations: [UInt64] = []
        for (rank, rows) in zip(reading.ranks, replies) {
            let contextRank = shape.contextRank(of: rank)
            let owned = shape.layout.localRange(
                ofRank: contextRank, from: piece.lowerBound, to: piece.upperBound)
            guard rows.tokens == owned.count,
                rows.dataType == reading.dataType, rows.kvHeads == attention.kvHeads / shape.headGroups,
                rows.keyDim == attention.keyDim, rows.valueDim == attention.ownValueDim
            else { throw Cluster.unexpected("\(rows.tokens) rows of other dimensions", from: "\(rank)") }
            generations.append(rows.generation)
            let places = RowPlaces(
                layout: shape.layout, contextRank: contextRank, owned: owned, origin: reading.positions.lowerBound,
                group: shape.headGroup(of: rank), groups: shape.headGroups)
            let headByteCount = rows.kvHeads * rows.dataType.byteCount
            places.spread(rows.keys, to: &keys, rowByteCount: headByteCount * rows.keyDim)
            places.spread(rows.values, to: &values, rowByteCount: headByteCount * rows.valueDim)
        }
        guard version.generations.isEmpty || version.generations == generations else {
            throw ServiceError(
                .conflict,
                "\(reading.sequence) was truncated while positions \(reading.positions.lowerBound)..<"
                    + "\(reading.positions.upperBound) were read; read them again.")
        }
        version.generations = generations
    }
}
