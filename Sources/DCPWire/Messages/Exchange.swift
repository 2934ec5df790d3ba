// SPDX-License-Identifier: Apache-2.0

public import DCPCore
public import NIOCore

/// The queries of a rank's own heads, for the other ranks of its head group.
public struct QuerySlice: Equatable, Sendable {
    public var tokens: Int
    public var heads: Int
    public var keyDim: Int
    public var dataType: DataType
    /// `[heads][tokens][keyDim]`
    public var queries: ByteBuffer

    public init(tokens: Int, heads: Int, keyDim: Int, dataType: DataType, queries: ByteBuffer) {
        self.tokens = tokens
        self.heads = heads
        self.keyDim = keyDim
        self.dataType = dataType
        self.queries = queries
    }

    package init(from reader: inout WireReader, payload: ByteBuffer) throws(ServiceError) {
        tokens = try reader.readTokens()
        heads = Int(try reader.read("heads", as: UInt16.self))
        keyDim = Int(try reader.read("key dim", as: UInt16.self))
        dataType = try reader.readCase("dtype")
        var rest = payload
        queries = try rest.take(tokens * heads * keyDim * dataType.byteCount, "queries", reader)
        try rest.expectEmpty(reader)
    }

    package func encodeBody(to writer: inout WireWriter) -> [ByteBuffer] {
        writer.write(UInt32(tokens))
        writer.write(UInt16(heads))
        writer.write(UInt16(keyDim))
        writer.write(dataType.rawValue)
        return [queries]
    }
}

/// All-to-all: the sender's context partial for the receiver's own heads, output and LSE in one message.
public struct PartialSlice: Sendable {
    public var tokens: Int
    public var heads: Int
    public var valueDim: Int
    /// `[heads][tokens][valueDim]`, Float32, normalised by the sender's own sum.
    public var outputs: ByteBuffer
    /// `[heads][tokens]`, Float64, natural logarithm, -inf where the sender's shard has no token.
    public var lse: ByteBuffer

    public init(tokens: Int, heads: Int, valueDim: Int, outputs: ByteBuffer, lse: ByteBuffer) {
        self.tokens = tokens
        self.heads = heads
        self.valueDim = valueDim
        self.outputs = outputs
        self.lse = lse
    }

    package init(from reader: inout WireReader, payload: ByteBuffer) throws(ServiceError) {
        tokens = try reader.readTokens()
        heads = Int(try reader.read("heads", as: UInt16.self))
        valueDim = Int(try reader.read("value dim", as: UInt16.self))
        try reader.readLogarithmBase()
        var rest = payload
        outputs = try rest.take(tokens * heads * valueDim * 4, "outputs", reader)
        lse = try rest.take(tokens * heads * 8, "LSE", reader)
        try rest.expectEmpty(reader)
    }

    package func encodeBody(to writer: inout WireWriter) -> [ByteBuffer] {
        writer.write(UInt32(tokens))
        writer.write(UInt16(heads))
        writer.write(UInt16(valueDim))
        writer.writeLogarithmBase()
        return [outputs, lse]
    }
}

/// All-gather and reduce-scatter, first half: the sender's LSE for all heads of the group.
public struct LogSumExps: Sendable {
    public var tokens: Int
    public var heads: Int
    /// `[heads][tokens]`, Float64, natural logarithm.
    public var lse: ByteBuffer

    public init(tokens: Int, heads: Int, lse: ByteBuffer) {
        self.tokens = tokens
        self.heads = heads
        self.lse = lse
    }

    package init(from reader: inout WireReader, payload: ByteBuffer) throws(ServiceError) {
        tokens = try reader.readTokens()
        heads = Int(try reader.read("heads", as: UInt16.self))
        try reader.readLogarithmBase()
        var rest = payload
        lse = try rest.take(tokens * heads * 8, "LSE", reader)
        try rest.expectEmpty(reader)
    }

    package func encodeBody(to writer: inout WireWriter) -> [ByteBuffer] {
        writer.write(UInt32(tokens))
        writer.write(UInt16(heads))
        writer.writeLogarithmBase()
        return [lse]
    }
}

/// All-gather and reduce-scatter, second half: the sender's outputs for the receiver's own heads, already weighted by
/// `exp(own LSE - combined LSE)`; the receiver adds them in rank order.
public struct CorrectedSlice: Sendable {
    public var tokens: Int
    public var heads: Int
    public var valueDim: Int
    /// `[heads][tokens][valueDim]`, Float32.
    public var outputs: ByteBuffer

    public init(tokens: Int, heads: Int, valueDim: Int, outputs: ByteBuffer) {
        self.tokens = tokens
        self.heads = heads
        self.valueDim = valueDim
        self.outputs = outputs
    }

    package init(from reader: inout WireReader, payload: ByteBuffer) throws(ServiceError) {
        tokens = try reader.readTokens()
        heads = Int(try reader.read("heads", as: UInt16.self))
        valueDim = Int(try reader.read("value dim", as: UInt16.self))
        var rest = payload
        outputs = try rest.take(tokens * heads * valueDim * 4, "outputs", reader)
        try rest.expectEmpty(reader)
    }

    package func encodeBody(to writer: inout WireWriter) -> [ByteBuffer] {
        writer.write(UInt32(tokens))
        writer.write(UInt16(heads))
        writer.write(UInt16(valueDim))
        return [outputs]
    }
}

extension WireWriter {
    /// Every LSE on the wire states its base, so that a base-2 producer can never be merged as base e (TRAPS 1 to 3).
    mutating func writeLogarithmBase() { write(UInt8(1)) }
}

extension WireReader {
    /// The tokens of a step. Bounded, so that no product with heads and dimensions can overflow.
    mutating func readTokens() throws(ServiceError) -> Int {
        let tokens: UInt32 = try read("tokens")
        guard tokens <= StepRequest.tokensMax else {
            throw malformed("has \(tokens) tokens, but the limit of a step is \(StepRequest.tokensMax)")
        }
        return Int(tokens)
    }

    /// 1 is the natural logarithm, the only base defined.
    mutating func readLogarithmBase() throws(ServiceError) {
        let base: UInt8 = try read("logarithm base")
        guard base == 1 else {
            throw malformed("has an LSE in the unknown base \(base); only 1 (the natural logarithm) is defined")
        }
    }
}

extension ByteBuffer {
    mutating func take(_ byteCount: Int, _ name: StaticString, _ reader: WireReader) throws(ServiceError) -> ByteBuffer
    {
        guard let slice = readSlice(length: byteCount) else {
            throw reader.malformed("needs \(byteCount) bytes of \(name) but has \(readableBytes)")
        }
        return slice
    }

    func expectEmpty(_ reader: WireReader) throws(ServiceError) {
        guard readableBytes == 0 else { throw reader.malformed("has \(readableBytes) bytes of payload too many") }
    }
}
