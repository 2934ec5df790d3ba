// SPDX-License-Identifier: Apache-2.0

public import DCPCore
public import NIOCore

/// Requests a rank's keys and values of some committed tokens of one layer.
public struct RowsRequest: Hashable, Sendable {
    public var sequence: SequenceID
    public var layer: Int
    /// The first token, global.
    public var position: Int
    /// Number of tokens of the sequence; the rank answers with those that it owns.
    public var count: Int

    public init(sequence: SequenceID, layer: Int, position: Int, count: Int) {
        self.sequence = sequence
        self.layer = layer
        self.position = position
        self.count = count
    }

    public var positions: Range<Int> { position..<position + count }

    package init(from reader: inout WireReader) throws(ServiceError) {
        sequence = SequenceID(try reader.read("sequence"))
        layer = Int(try reader.read("layer", as: UInt32.self))
        position = try reader.readLength("position")
        count = try reader.readTokens()
    }

    package func encode(to writer: inout WireWriter) {
        writer.write(sequence.value)
        writer.write(UInt32(layer))
        writer.write(UInt64(position))
        writer.write(UInt32(count))
    }
}

/// The keys and values of the owned tokens of a request, by rising position, as stored in the cache.
public struct RowsReply: Sendable {
    /// It changes whenever the rank cuts the sequence: two answers with the same epoch and generation come from the
    /// same state.
    public var generation: UInt64
    /// Tokens in the payload.
    public var tokens: Int
    /// The model's cache format.
    public var dataType: DataType
    /// KV heads of the rank's head group.
    public var kvHeads: Int
    public var keyDim: Int
    public var valueDim: Int
    /// The keys, then the values, in the wire format.
    public var rows: ByteBuffer

    public init(
        generation: UInt64, tokens: Int, dataType: DataType, kvHeads: Int, keyDim: Int, valueDim: Int, rows: ByteBuffer
    ) {
        self.generation = generation
        self.tokens = tokens
        self.dataType = dataType
        self.kvHeads = kvHeads
        self.keyDim = keyDim
        self.valueDim = valueDim
        self.rows = rows
    }

    /// `[tokens][kvHeads][keyDim]`
    public var keys: PayloadPart { PayloadPart(rows, at: 0, byteCount: byteCount(keyDim)) }
    /// `[tokens][kvHeads][valueDim]`
    public var values: PayloadPart { PayloadPart(rows, at: byteCount(keyDim), byteCount: byteCount(valueDim)) }

    private func byteCount(_ dim: Int) -> Int { tokens * kvHeads * dim * dataType.byteCount }

    package init(from reader: inout WireReader, payload: ByteBuffer) throws(ServiceError) {
        generation = try reader.read("generation")
        tokens = try reader.readTokens()
        dataType = try reader.readCase("dtype")
        kvHeads = Int(try reader.read("KV heads", as: UInt16.self))
        keyDim = Int(try reader.read("key dim", as: UInt16.self))
        valueDim = Int(try reader.read("value dim", as: UInt16.self))
        rows = payload
        let byteCount = byteCount(keyDim) + byteCount(valueDim)
        guard rows.readableBytes == byteCount else {
            throw reader.malformed("needs \(byteCount) bytes of keys and values but has \(rows.readableBytes)")
        }
    }

    package func encodeBody(to writer: inout WireWriter) -> [ByteBuffer] {
        writer.write(generation)
        writer.write(UInt32(tokens))
        writer.write(dataType.rawValue)
        writer.write(UInt16(kvHeads))
        writer.write(UInt16(keyDim))
        writer.write(UInt16(valueDim))
        return [rows]
    }
}
