/// One unit of writing: all of it commits, or none.
public struct WriteJob: Sendable {
    /// Something that no job of a transaction may change while another touches it, because the second plans from the state
    /// the first leaves in memory, which changes only after the commit.
    public struct Key: Hashable, Sendable {
        let space: UInt8
        let value: UInt64

        public init(space: UInt8, value: UInt64) {
            self.space = space
            self.value = value
        }
    }

    /// What it changes.
    public var keys: [Key]
    /// What it plans from and leaves as it is.
    public var readKeys: [Key]
    /// Shares its transaction with no other job.
    public var isAlone: Bool
    /// Leaves fewer pages in use than before, so it may take the reserve of a full store.
    public var isFreeing: Bool
    /// Is on the disk when it completes, whatever the durability: undone by a loss of power, it would do harm.
    public var isSynced: Bool
    /// Only makes better what is good: has whole runs of pages or fails, and that it found none says nothing of the store.
    public var isOptional: Bool
    /// Set by the queue.
    var isInternal = false
    /// Writes. May run several times: in a shared transaction that fails, then again alone, and again with values in pieces.
    /// Throw before the first change and the other jobs of the transaction do not notice.
    public var body: @Sendable (inout WriteTransaction) throws -> Void
    /// Takes back what `body` changed in memory. Called after every run of `body` that did not commit, also one that
    /// threw, and of a synced job whose commit did not reach the disk: nothing is written after that, so what it deleted
    /// can still be read.
    public var undo: @Sendable () -> Void
    /// The outcome, once; a success after the commit is as durable as the setting says.
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
