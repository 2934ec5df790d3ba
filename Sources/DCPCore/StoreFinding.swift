// SPDX-License-Identifier: Apache-2.0

/// An inconsistency in a rank's store, as reported by a verification.
public struct StoreFinding: Hashable, Sendable {
    /// The kind of inconsistency. Numbers from 64 on are leftovers: nothing is lost, and served data is not affected.
    public enum Kind: UInt8, CaseIterable, Sendable {
        /// A table cannot be read to its end, or a key has a wrong size or order.
        case table = 1
        /// The superblock or one of the counters.
        case superblock = 2
        case model = 3
        /// The record of a sequence: the list of its blocks is lost.
        case record = 4
        case missingBlock = 5
        case block = 6
        case missingRow = 7
        case row = 8
        /// Token ids: keys and values are intact, but the sequence cannot be found by its ids.
        case tokenIDs = 9
        case annotation = 10

        /// Blocks to which no sequence refers. They wait for deletion, or only a damaged record referred to them.
        case unreferencedBlocks = 64
        /// Tail rows that belong to no open block.
        case strayRows = 65
        /// Ids or annotations to which no sequence refers.
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
    /// Index of the block among the rank's blocks of that sequence and layer.
    public var block: Int?
    /// The global length up to which the sequence is intact; nil if cutting the sequence is not the remedy.
    public var intactLength: Int?
    /// For people: what, where, and what to do if the remedy is not to cut the sequence.
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

/// The progress of a verification.
public struct VerificationProgress: Hashable, Sendable {
    /// Bytes of blocks and rows read and compared; a block that forks share counts once.
    public var byteCount = 0
    /// The expected final `byteCount`, estimated at the start.
    public var byteCountTotal = 0
    public var sequences = 0
    public var blocks = 0
    public var rows = 0

    public init() {}
}
