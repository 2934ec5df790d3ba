// SPDX-License-Identifier: Apache-2.0

public import DCPCore
public import DCPWire

/// The coordinator's durable state: the cluster's shape, models, sequences and epoch.
///
/// Names are unique. It is a value that changes only through `StateChange`s, each of which is persisted before it is
/// acknowledged.
public struct CoordinatorState: Hashable, Sendable {
    public let shape: ClusterShape
    /// The cluster id; none until its store has drawn it.
    public private(set) var cluster = ClusterID.none
    public private(set) var epoch = Epoch.none
    /// Number of changes recorded in this state and in those from which it was rebuilt.
    public private(set) var directoryMark = DirectoryMark.none
    /// The directory is being rebuilt from the ranks' stores; its contents here may be older.
    public private(set) var isAdopting = false
    /// The first store of each rank; another store in its place is refused.
    public private(set) var stores: [RankIndex: StoreID] = [:]
    /// The durable mark of each rank's store: a store behind it is an older copy.
    public private(set) var marks: [RankIndex: UInt64] = [:]
    public private(set) var models: [ModelID: ModelRecord] = [:]
    /// Encoded bytes of all models.
    private(set) var modelsByteCount = 0
    public private(set) var sequences: [SequenceID: SequenceEntry] = [:]
    private(set) var sequenceOrder = SequenceOrder()
    /// Of each name. Two while one of them is being closed, after ranks were adopted.
    private var named: [NameKey: [SequenceID]] = [:]
    private(set) var nextModel: UInt32 = 1
    private(set) var nextSequence: UInt64 = 1

    public init(shape: ClusterShape, cluster: ClusterID = .none) {
        self.shape = shape
        self.cluster = cluster
    }

    package mutating func apply(_ change: StateChange) {
        switch change {
        case .cluster(let cluster): self.cluster = cluster
        case .epoch(let epoch): self.epoch = epoch
        case .directoryMark(let mark): directoryMark = mark
        case .adopting(let isAdopting): self.isAdopting = isAdopting
        case .store(let rank, let store): stores[rank] = store
        case .mark(let rank, let mark): marks[rank] = mark
        case .model(let record):
            let known = models.updateValue(record, forKey: record.id)
            modelsByteCount += record.encodedByteCount - (known?.encodedByteCount ?? 0)
            nextModel = max(nextModel, record.id.value + 1)
        case .modelRemoved(let id): modelsByteCount -= models.removeValue(forKey: id)?.encodedByteCount ?? 0
        case .sequence(let entry):
            let known = sequences.updateValue(entry, forKey: entry.record.id)
            if known == nil { sequenceOrder.insert(entry.record.id) }
            if known?.record.name != entry.record.name {
                if let known { forget(known.record) }
                named[NameKey(entry.record.name), default: []].append(entry.record.id)
            }
            nextSequence = max(nextSequence, entry.record.id.value + 1)
        case .sequenceRemoved(let id):
            guard let known = sequences.removeValue(forKey: id) else { return }
            sequenceOrder.remove(id)
            forget(known.record)
        case .nextIDs(let model, let sequence):
            nextModel = max(nextModel, model)
            nextSequence = max(nextSequence, sequence)
        }
    }

    private mutating func forget(_ record: SequenceRecord) {
        let name = NameKey(record.name)
        named[name]?.removeAll { $0 == record.id }
        if named[name]?.isEmpty ?? false { named[name] = nil }
    }

    func model(named name: String) -> ModelRecord? { models.values.first { NameKey($0.name) == NameKey(name) } }
    /// Of two with one name, the one that is not being closed.
    package func sequence(named name: String) -> SequenceEntry? {
        let entries = (named[NameKey(name)] ?? []).map { sequences[$0]! }
        return entries.first { !$0.isClosing } ?? entries.first
    }

    /// Whether a join closes the sequence. One without its model has never had tokens: a rank has refused the model.
    func isClosing(_ entry: SequenceEntry) -> Bool { entry.isClosing || models[entry.record.model] == nil }

    var sortedModels: [ModelRecord] { models.values.sorted { $0.id < $1.id } }
    /// By rising number.
    var sortedSequences: some Sequence<SequenceEntry> { sequenceOrder.lazy.map { sequences[$0]! } }
}

/// A sequence in the directory, with its pending changes.
public struct SequenceEntry: Hashable, Sendable {
    public var record: SequenceRecord
    /// The identity of the client that created it, or empty.
    public var owner = ""
    /// Being closed: ranks that still have it get the operation; the entry is removed when all have confirmed.
    public var isClosing = false
    /// A fork not yet confirmed by all ranks.
    public var fork: Fork?
    /// A truncation not yet confirmed by all ranks.
    public var truncateLength: Int?
    public var retention = Retention()
    package var history: CutHistory

    public struct Fork: Hashable, Sendable {
        public var parent: SequenceID
        public var length: Int

        package init(parent: SequenceID, length: Int) {
            self.parent = parent
            self.length = length
        }
    }

    package init(
        record: SequenceRecord, owner: String = "", isClosing: Bool = false, fork: Fork? = nil,
        truncateLength: Int? = nil,
        retention: Retention = Retention(), history: CutHistory = CutHistory()
    ) {
        self.record = record
        self.owner = owner
        self.isClosing = isClosing
        self.fork = fork
        self.truncateLength = truncateLength
        self.retention = retention
        self.history = history
    }
}

/// One durable change of the coordinator's state.
public enum StateChange: Hashable, Sendable {
    case cluster(ClusterID)
    case epoch(Epoch)
    case directoryMark(DirectoryMark)
    case adopting(Bool)
    case store(RankIndex, StoreID)
    case mark(RankIndex, UInt64)
    case model(ModelRecord)
    case modelRemoved(ModelID)
    case sequence(SequenceEntry)
    case sequenceRemoved(SequenceID)
    /// The next numbers to assign, so that those of removed models and sequences are not reused.
    case nextIDs(model: UInt32, sequence: UInt64)
}
