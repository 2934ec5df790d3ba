// SPDX-License-Identifier: Apache-2.0

public import DCPCore
public import NIOCore

/// A step for one layer, as one rank receives it.
///
/// The tag contains the client, the step and the layer. A step appends tokens and computes their attention, or does one
/// of the two. Tensors are head-major, `[head][token][dimension]`, with the tokens of all entries one after the other:
/// a slice of heads is a slice of bytes, and concatenating the slices of all ranks in rank order gives all heads.
public struct StepRequest: Sendable {
    /// `count` tokens of a sequence from `position` on: new ones or, in a step that does not append, existing ones.
    public struct Entry: Hashable, Sendable {
        public var sequence: SequenceID
        public var position: Int
        public var count: Int
        /// The sender's claim on the sequence. `Cluster` fills it in.
        public var claim: Claim

        public init(sequence: SequenceID, position: Int, count: Int, claim: Claim = .none) {
            self.sequence = sequence
            self.position = position
            self.count = count
            self.claim = claim
        }

        public var positions: Range<Int> { position..<position + count }

        static let byteCount = 28
    }

    /// How every rank of a head group gets the queries of all the group's heads.
    public enum QueryMode: UInt8, Sendable {
        /// Each rank is sent its own heads' queries; the ranks gather them.
        case gather = 1
        /// The client sends all the group's queries to every rank; nothing is gathered.
        case replicate = 2
        /// The step has no queries: its tokens are appended, and nothing is computed.
        case absent = 3

        /// The choices for users, by name; nil selects the cheaper one.
        package static let choices: [String: QueryMode?] = ["auto": nil, "gather": .gather, "replicate": .replicate]
    }

    public static let entriesMax = 4096
    public static let tokensMax = 1 << 20

    public var model: ModelID
    public var queryMode: QueryMode
    /// Whether the entries' tokens are new. Otherwise they are in the cache, and the step only computes their
    /// attention.
    public var appends: Bool
    public var wantsLSE: Bool
    /// After this time the rank aborts the step, with a verdict to its group.
    public var timeoutMilliseconds: UInt32
    public var entries: [Entry]
    public var queryDataType: DataType
    public var keyValueDataType: DataType
    /// Heads in `queries`: the rank's own, which may be none, or all of its group's.
    public var queryHeads: Int
    public var kvHeads: Int
    public var keyDim: Int
    public var valueDim: Int
    /// Tokens in `keys` and `values`: all of the step's; in a step without queries only those that the rank owns; none
    /// if the step does not append.
    public var keyValueTokens: Int
    /// Parts to commit after the step's tokens are in the cache. They are as durable as the setting requires before the
    /// answer is sent: one round trip for both. They may be of any sequences, up to lengths that all layers have
    /// reached by then.
    public var commits: [SequenceCommit]
    /// The queries, the keys and the values, one after the other, in the wire format.
    public var tensors: ByteBuffer

    public init(
        model: ModelID, queryMode: QueryMode, appends: Bool = true, wantsLSE: Bool, timeoutMilliseconds: UInt32,
        entries: [Entry], queryDataType: DataType, keyValueDataType: DataType, queryHeads: Int, kvHeads: Int,
        keyDim: Int, valueDim: Int, keyValueTokens: Int, commits: [SequenceCommit] = [], tensors: ByteBuffer
    ) {
        self.model = model
        self.queryMode = queryMode
        self.appends = appends
        self.wantsLSE = wantsLSE
        self.timeoutMilliseconds = timeoutMilliseconds
        self.entries = entries
        self.queryDataType = queryDataType
        self.keyValueDataType = keyValueDataType
        self.queryHeads = queryHeads
        self.kvHeads = kvHeads
        self.keyDim = keyDim
        self.valueDim = valueDim
        self.keyValueTokens = keyValueTokens
        self.commits = commits
        self.tensors = tensors
    }

    public var tokens: Int { entries.reduce(0) { $0 + $1.count } }

    /// `[queryHeads][tokens][keyDim]`
    public var queries: PayloadPart { PayloadPart(tensors, at: 0, byteCount: queryByteCount) }
    /// `[kvHeads][keyValueTokens][keyDim]`
    public var keys: PayloadPart { PayloadPart(tensors, at: queryByteCount, byteCount: keyByteCount) }
    /// `[kvHeads][keyValueTokens][valueDim]`
    public var values: PayloadPart {
        PayloadPart(tensors, at: queryByteCount + keyByteCount, byteCount: valueByteCount)
    }

    /// As `queries`, for a message of its own.
    public var queryBuffer: ByteBuffer { tensors.getSlice(at: tensors.readerIndex, length: queryByteCount)! }

    /// What keys and values leave of the payload: not before `checkTensors`. The product of the fields would add up the
    /// tokens of all entries, for each entry that is appended.
    private var queryByteCount: Int { tensors.readableBytes - keyByteCount - valueByteCount }
    // 2^16 heads x 2^20 tokens x 2^16 dimensions x 4 bytes fits 64 bits: no product can overflow.
    private var keyByteCount: Int { kvHeads * keyValueTokens * keyValueDataType.byteCount * keyDim }
    private var valueByteCount: Int { kvHeads * keyValueTokens * keyValueDataType.byteCount * valueDim }

    /// Checks that the payload matches the fields.
    /// - Throws: `.invalidRequest`, with both numbers of bytes.
    public func checkTensors() throws(ServiceError) {
        let queries = queryHeads * tokens * keyDim * queryDataType.byteCount
        let (keys, values) = (keyByteCount, valueByteCount)
        guard tensors.readableBytes == queries + keys + values else {
            throw ServiceError(
                .invalidRequest,
                "The step has \(tensors.readableBytes) bytes of tensors, but its heads, tokens, dimensions and "
                    + "dtypes require \(queries) of queries, \(keys) of keys and \(values) of values. Correct the "
                    + "tensors.")
        }
    }

    package init(from reader: inout WireReader, payload: ByteBuffer) throws(ServiceError) {
        model = ModelID(try reader.read("model"))
        queryMode = try reader.readCase("query mode")
        appends = try reader.readBool("appends")
        wantsLSE = try reader.readBool("wants LSE")
        timeoutMilliseconds = try reader.read("timeout")
        queryDataType = try reader.readCase("query dtype")
        keyValueDataType = try reader.readCase("key and value dtype")
        queryHeads = Int(try reader.read("query heads", as: UInt16.self))
        kvHeads = Int(try reader.read("KV heads", as: UInt16.self))
        keyDim = Int(try reader.read("key dim", as: UInt16.self))
        valueDim = Int(try reader.read("value dim", as: UInt16.self))
        keyValueTokens = try reader.readTokens()
        entries = try reader.readArray("entries", byteCountMin: Entry.byteCount) { r throws(ServiceError) in
            Entry(
                sequence: SequenceID(try r.read("sequence")), position: try r.readLength("position"),
                count: Int(try r.read("count", as: UInt32.self)), claim: Claim(try r.read("claim")))
        }
        guard (1...Self.entriesMax).contains(entries.count) else {
            throw reader.malformed("has \(entries.count) entries, outside 1...\(Self.entriesMax)")
        }
        guard entries.allSatisfy({ $0.count >= 1 }) else { throw reader.malformed("has an entry without tokens") }
        let tokens = entries.reduce(0) { $0 + $1.count }
        guard tokens <= Self.tokensMax else {
            throw reader.malformed("has \(tokens) tokens, but the limit of a step is \(Self.tokensMax)")
        }
        commits = try [SequenceCommit](from: &reader)
        tensors = payload
    }

    package func encodeBody(to writer: inout WireWriter) -> [ByteBuffer] {
        writer.write(model.value)
        writer.write(queryMode.rawValue)
        writer.write(appends)
        writer.write(wantsLSE)
        writer.write(timeoutMilliseconds)
        writer.write(queryDataType.rawValue)
        writer.write(keyValueDataType.rawValue)
        writer.write(UInt16(queryHeads))
        writer.write(UInt16(kvHeads))
        writer.write(UInt16(keyDim))
        writer.write(UInt16(valueDim))
        writer.write(UInt32(keyValueTokens))
        writer.write(entries) {
            $0.write($1.sequence.value)
            $0.write(UInt64($1.position))
            $0.write(UInt32($1.count))
            $0.write($1.claim.value)
        }
        commits.encode(to: &writer)
        return [tensors]
    }
}

/// A rank's answer to a step: the outputs of its own heads.
public struct StepResult: Sendable {
    public var tokens: Int
    public var heads: Int
    public var valueDim: Int
    /// `[heads][tokens][valueDim]`, Float32.
    public var outputs: ByteBuffer
    /// `[heads][tokens]`, Float32, natural logarithm; nil when the step did not ask for it.
    public var lse: ByteBuffer?

    public init(tokens: Int, heads: Int, valueDim: Int, outputs: ByteBuffer, lse: ByteBuffer?) {
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
        let hasLSE = try reader.readBool("has LSE")
        try reader.readLogarithmBase()
        var rest = payload
        outputs = try rest.take(tokens * heads * valueDim * 4, "outputs", reader)
        lse = hasLSE ? try rest.take(tokens * heads * 4, "LSE", reader) : nil
        try rest.expectEmpty(reader)
    }

    package func encodeBody(to writer: inout WireWriter) -> [ByteBuffer] {
        writer.write(UInt32(tokens))
        writer.write(UInt16(heads))
        writer.write(UInt16(valueDim))
        writer.write(lse != nil)
        writer.writeLogarithmBase()
        return [outputs, lse ?? ByteBuffer()]
    }
}
