// SPDX-License-Identifier: Apache-2.0

/// A unit of writing that commits entirely or not at all.
public struct WriteJob: Sendable {
    /// An object that no job of a transaction may change if another job of it uses it, because jobs plan from the state
    /// in memory, which changes only after the commit.
    public struct Key: Hashable, Sendable {
        let space: UInt8
        let value: UInt64

        public init(space: UInt8, value: UInt64) {
            self.space = space
            self.value = value
        }
    }

    /// The objects that it changes.
    public var keys: [Key]
    /// The objects that it only reads.
    public var readKeys: [Key]
    /// Shares its transaction with no other job.
    public var isAlone: Bool
    /// Leaves fewer pages in use than before, or is awaited by what does: it may take the reserve of a full store.
    public var isFreeing: Bool
    /// It is on the disk when it completes, whatever the durability, because losing it in a power loss would do harm.
    public var isSynced: Bool
    /// An optional improvement: it needs whole runs of pages or fails, and its failure says nothing about the store.
    public var isOptional: Bool
    /// Set by the queue.
    var isInternal = false
    /// Writes. It may run several times: in a shared transaction that fails, then alone, and again with values in
    /// pieces. If it throws before its first change, the other jobs of the transaction are not affected.
    public var body: @Sendable (inout WriteTransaction) throws -> Void
    /// Undoes the changes of `body` in memory. Called after every run of `body` that did not commit, including one that
    /// threw, and for a synced job whose commit did not reach the disk: nothing is written after that, so deleted data
    /// can still be read.
    public var undo: @Sendable () -> Void
    /// Receives the result once; a success comes after the commit, which is as durable as the setting requires.
    public var completion: @Sendable (Result<Void, any Error>) -> Void

    public init(
        keys: [Key] = [], reading readKeys: [Key] = [], isAlone: Bool = false, isFreeing: Bool = false,
        isSynced: Bool = false,
        isOptional: Bool = false,
        body: @escaping @Sendable (inout WriteTransaction) throws -> Void,
        undo: @escaping @Sendable () -> Void = {},
        completion: @escaping @Sendable (Result<Void, any Error>) -> Void
    ) {
        self.keys = keys
        self.readKeys = readKeys
        self.isAlone = isAlone
        self.isFreeing = isFreeing
        self.isSynced = isSynced
        self.isOptional = isOptional
        self.body = body
        self.undo = undo
        self.completion = completion
    }
}
