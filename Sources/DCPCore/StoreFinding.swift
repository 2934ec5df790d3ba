/// Something in a rank's store that is not as it must be: what a verification reports.
public struct StoreFinding: Hashable, Sendable {
    /// What is wrong. Numbers from 64 on are leftovers: nothing is lost, and nothing that is served is touched.
    public enum Kind: UInt8, CaseIterable, Sendable {
        /// A table cannot be read to its end, or a key has a wrong size or order.
        case table = 1
        /// The superblock or one of the counters.
        case superblock = 2
        case model = 3
        /// The record of a sequence: nobody knows any more which blocks are its own.
        case record = 4
        case missingBlock = 5
        case block = 6
        case missingRow = 7
        case row = 8
        /// Token ids: keys and values are good, and the sequence is not found by its ids.
        case tokenIDs = 9
        case annotation = 10

        /// Blocks that no sequence refers to. They wait for deletion, or a damaged record was the only one to name them.
        case unreferencedBlocks = 64
        /// Rows that belong to no open block.
        case strayRows = 65
        /// Ids or annotations that no sequence has.
        case strayTokens = 66

        public var isDamage: Bool { rawValue < 64 }

        /// The name in tables and JSON.
        public var name: String {
            switch self {
            case .table: "table"
            case .superblock: "superblock"
            case .model: "model"
            case .record: "record"
            case .missingBlock: "missing block"
            case .block: "block"
            case .missingRow: "missing row"
            case .row: "row"
            case .tokenIDs: "token ids"
            case .annotation: "annotation"
            case .unreferencedBlocks: "unreferenced blocks"
            case .strayRows: "stray rows"
            case .strayTokens: "stray ids"
            }
        }
    }

    public var kind: Kind
    public var sequence: SequenceID?
    public var layer: Int?
    /// Index of the block among the rank's own of that sequence and layer.
    public var block: Int?
    /// The global length up to which the sequence is not touched by it; nil where cutting the sequence is no remedy.
    public var intactLength: Int?
    /// For people: what, where, and what to do when that is not to cut the sequence.
    public var message: String

    public init(
        _ kind: Kind, sequence: SequenceID? = nil, layer: Int? = nil, block: Int? = nil, intactLength: Int? = nil,
        _ message: String
    ) {
        self.kind = kind
        self.sequence = sequence
        self.layer = layer
        self.block = block
        self.intactLength = intactLength
        self.message = message
    }

    public var isDamage: Bool { kind.isDamage }
}

/// How far a verification is.
public struct VerificationProgress: Hashable, Sendable {
    /// Bytes of blocks and rows read and compared; a block that forks share counts once.
    public var byteCount = 0
    /// What `byteCount` will be at the end, as of the start.
    public var byteCountTotal = 0
    public var sequences = 0
    public var blocks = 0
    public var rows = 0

    public init() {}
}
