// SPDX-License-Identifier: Apache-2.0

public import DCPCore
public import DCPStore

/// The outcome of an operation on the store. Called once: on the writer's thread after the transaction committed, or at
/// once on the caller's thread when the operation is refused (`.overloaded`, `.shuttingDown`). Must not block for long:
/// every other commit waits behind it.
public typealias CacheCompletion = @Sendable (Result<Void, ServiceError>) -> Void

extension ShardCache {
    public struct Settings: Sendable {
        /// The largest size of the data file, bytes. Address space: the file grows as it is filled. Default 1 TiB.
        public var mapByteCountMax: Int
        /// When commits reach the disk. Default `everysec`.
        public var durability: Durability
        /// Bytes of rows in RAM that are appended and not committed, over all sequences. When they are more than half of it,
        /// full blocks of theirs are spilled to the store; what would exceed all of it waits for that, but for one append
        /// that is larger than the other half. Bounds RAM together with one open block for each layer of each sequence in
        /// use. Default 1 GiB.
        public var uncommittedByteCountMax: Int
        /// Limit of RAM for open blocks, uncommitted blocks and addresses of others. Beyond it, fully committed
        /// sequences are dropped from RAM, the least recently used first. Sequences in use are not limited. Default
        /// none.
        public var memoryByteCountMax: Int?
        /// The most bytes of blocks in RAM that are kept for later blocks after they were sealed or dropped. Default
        /// 64 MiB: a step of 512 tokens in 32 layers of 8 KV heads of 128 + 128 bf16. Large blocks share mappings of
        /// 2 MiB or more; what is left of the last comes on top.
        public var spareByteCountMax: Int
        /// Limit of RAM for assembled blocks that the store holds in pieces. A step assembles further blocks for
        /// itself, if the other steps hold no more than the same amount. Default 256 MiB.
        public var assembledByteCountMax = 256 << 20
        /// The most operations that may wait for the writer; further ones are refused as `.overloaded`. Default 1024.
        public var queueDepthMax: Int
        /// When new tokens are refused, and when they are taken again: shares of the room that the data file has. Default
        /// 95 % and 90 %.
        public var watermarks = Watermarks.standard
        /// For tests.
        package var faults: StoreFaults?
        /// Runs the writer's jobs instead of its thread, for simulations.
        package var writerHost: (any WriterHost)?
        /// The identity of a store that is made here; random unless given.
        package var newStoreID: StoreID?

        public init(
            mapByteCountMax: Int = 1 << 40, durability: Durability = .everysec,
            uncommittedByteCountMax: Int = 1 << 30, spareByteCountMax: Int = 64 << 20, queueDepthMax: Int = 1024
        ) {
            self.mapByteCountMax = mapByteCountMax
            self.durability = durability
            self.uncommittedByteCountMax = uncommittedByteCountMax
            self.spareByteCountMax = spareByteCountMax
            self.queueDepthMax = queueDepthMax
        }
    }
}

/// One sequence as this rank knows it.
public struct SequenceState: Hashable, Sendable {
    public var id: SequenceID
    public var model: ModelID
    /// Who may find it by its ids.
    public var scope: String
    /// What clients call it.
    public var name: String
    /// How long it is to stay, as this rank was told last.
    public var retention: Retention
    /// Durable length.
    public var committedLength: Position
    /// How many of them have ids: all, or none.
    public var tokenIDs: Int
    /// Whether all of these can be read, and matched, as far as is known.
    public var areIDsIntact: Bool
    /// Each layer's length including what is not committed.
    public var layerLengths: [Position]
    /// The length that can be served: `committedLength`, or less if a stored value is damaged. Truncating to it, or
    /// below, makes the sequence usable again. Only damage found since the start is known.
    public var intactLength: Position
    /// Its place in the order of this store's changes: the higher, the later it was opened, committed, forked or cut.
    /// Durable with the change.
    public var lastChange: UInt64
    /// The latest that this rank has been told of; as of the last change, when the store was opened since.
    public var claim: Claim
}

/// The contents of the cache, at one moment.
public struct CacheStatistics: Hashable, Sendable {
    public var sequences: Int
    /// Committed tokens of this rank, summed over sequences; shared tokens of forks count in each. With many sequences as of
    /// some seconds ago.
    public var localTokens: Int
    /// Blocks in the store, each for one layer; shared ones count once, spilled ones with the others.
    public var sealedBlocks: Int
    /// Of these, blocks in pieces, because no run of free pages was long enough.
    public var piecedBlocks: Int
    /// Bytes of open and uncommitted blocks in RAM, with those that only a reader still holds, and of blocks in pieces that
    /// were put together.
    public var memoryByteCount: Int
    /// Bytes of where sealed blocks are, of sequences that have something in RAM, and how many these are.
    public var indexByteCount: Int
    public var residentSequences: Int
    /// Bytes of blocks that were sealed or dropped, kept for later ones: see `Settings.spareByteCountMax`.
    public var spareByteCount: Int
    /// Bytes of rows appended and not committed, in RAM.
    public var uncommittedByteCount: Int
    /// Bytes of those that were spilled to the store.
    public var spilledByteCount: Int
    /// Blocks that were spilled since the start.
    public var blocksSpilled: UInt64
    /// Bytes of pages that hold something.
    public var storeUsedByteCount: Int
    /// Bytes of the data file.
    public var storeFileByteCount: Int
    /// The largest size of the data file.
    public var storeMapByteCount: Int
    /// Context readers alive.
    public var readers: Int
    /// Write transactions committed since the start; with several commits in one, fewer than operations.
    public var transactionsCommitted: Int
}
