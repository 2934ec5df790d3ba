internal import DCPCore
internal import DCPWire

/// What the coordinator does when a rank's store is full.
public enum EvictionPolicy: String, CaseIterable, Sendable {
    /// Nothing: new tokens are refused until somebody closes or truncates sequences.
    case off
    /// Closes the least recently used sequence, on all ranks, and again while a store is still full.
    case lru
}

/// Which sequence goes next, and when, as a value.
///
/// One at a time: after each the ranks first report anew what they still want freed, so no more go than needed. Uses are
/// ordered by the coordinator's own count of the reports it was given, never by a clock of a rank. They are not
/// persisted here: after a restart of the coordinator all sequences count as used at its start, in the order that the
/// ranks remember. Rejected: an order in the coordinator's state, which is a synced write for what costs nothing to ask.
struct Eviction: Sendable {
    /// Names remembered of what was evicted; the oldest are forgotten.
    static let remembersMax = 1024

    let policy: EvictionPolicy
    /// A sequence that was used within this time counts as in use.
    let idle: Duration
    /// On its way.
    private(set) var current: SequenceID?
    private var uses: [SequenceID: Use] = [:]
    private var clock: UInt64 = 0
    /// Bytes that each rank wants freed, as reported since the last eviction ended.
    private var wanted: [RankIndex: UInt64] = [:]
    private var evictedNames: [String] = []
    private var hasBegun = false

    struct Use: Sendable {
        var order: UInt64
        var at: Duration
    }

    init(policy: EvictionPolicy = .off, idle: Duration = .seconds(10)) {
        self.policy = policy
        self.idle = idle
    }

    mutating func used(_ sequences: some Sequence<SequenceID>, at now: Duration) {
        guard policy != .off else { return }
        for sequence in sequences {
            clock += 1
            uses[sequence] = Use(order: clock, at: now)
        }
    }

    /// The ranks have joined for the first time since the start: what they say is the order so far.
    ///
    /// All have seen much the same; one that was started later has seen less, and knows of the time before only the order
    /// of changes. So the one that has seen most has the last word, on each sequence that it has.
    mutating func begin(_ registrations: [Registration]) {
        guard policy != .off, !hasBegun else { return }
        hasBegun = true
        for registration in registrations.sorted(by: { ($0.useCount, $0.rank) < ($1.useCount, $1.rank) }) {
            for held in registration.sequences {
                clock += 1
                uses[held.sequence] = Use(order: clock, at: uses[held.sequence]?.at ?? .zero)
            }
        }
    }

    mutating func report(_ byteCount: UInt64, from rank: RankIndex) { wanted[rank] = byteCount > 0 ? byteCount : nil }

    mutating func forget(_ rank: RankIndex) { wanted[rank] = nil }

    /// Whether one should go now.
    var isDue: Bool { policy == .lru && current == nil && !wanted.isEmpty }

    /// The rank that wants most, and how much, for the log.
    var mostWanted: (rank: RankIndex, byteCount: UInt64)? {
        wanted.max { ($0.value, $1.key) < ($1.value, $0.key) }.map { ($0.key, $0.value) }
    }

    /// The least recently used of some sequences that are not in use; nil when all are.
    func victim(among candidates: [SequenceEntry], now: Duration) -> SequenceEntry? {
        func use(_ entry: SequenceEntry) -> Use { uses[entry.record.id] ?? Use(order: 0, at: .zero) }
        return candidates.filter { now - use($0).at >= idle }.min {
            (use($0).order, $0.record.id) < (use($1).order, $1.record.id)
        }
    }

    mutating func began(_ entry: SequenceEntry) {
        current = entry.record.id
        uses[entry.record.id] = nil
        evictedNames.removeAll { $0 == entry.record.name }
        evictedNames.append(entry.record.name)
        if evictedNames.count > Self.remembersMax { evictedNames.removeFirst() }
    }

    /// It is gone, or a rank was lost meanwhile: what is still wanted is for the ranks to say again.
    mutating func ended() {
        current = nil
        wanted = [:]
    }

    /// No longer there, whoever closed it.
    mutating func closed(_ sequence: SequenceID) { uses[sequence] = nil }

    /// A new sequence of that name is nobody's who was evicted.
    mutating func opened(_ name: String) { evictedNames.removeAll { $0 == name } }

    func wasEvicted(_ name: String) -> Bool { evictedNames.contains(name) }
}
