public import DCPCore
internal import DCPWire

/// What the coordinator does when a rank's store is full and no kept sequence makes room.
public enum EvictionPolicy: String, CaseIterable, Sendable {
    /// Nothing: new tokens are refused until somebody closes or truncates sequences.
    case off
    /// Closes the least recently used sequences, on all ranks, whose blocks make the room that a store wants.
    case lru
}

/// Why a sequence was closed that nobody asked to close.
public enum EvictionCause: Hashable, Sendable {
    /// A rank wanted so many bytes freed.
    case room(RankIndex, byteCount: UInt64)
    /// It was not used for so many seconds.
    case age(UInt32)
}

/// Which sequences go next, and when, as a value.
///
/// Those that are kept for their tokens go first, then, with `lru`, those that somebody has; among either the lowest priority
/// first, and of one priority the least recently used.
///
/// In rounds. The ranks that want bytes freed are told what may go, in the order of the last uses, and each answers with
/// what has to: only it knows which blocks sequences share. All of these go together, and only then is asked again, so
/// no more go than needed and nobody waits for a renewal between two. Rejected: each rank's bytes with its renewals. What
/// a sequence frees depends on which others go, and those that are pinned or busy only the coordinator knows.
///
/// Uses are ordered by the coordinator's own count of the reports it was given, never by a clock of a rank. They are not
/// persisted here: after a restart of the coordinator all sequences count as used at its start, in the order that the
/// ranks remember. Rejected: an order in the coordinator's state, which is a synced write for what costs nothing to ask.
struct Eviction: Sendable {
    /// Names remembered of what was evicted; the oldest are forgotten.
    static let remembersMax = 1024
    /// Sequences that ranks are told of in one round, half a megabyte; the next round tells of later ones when none of
    /// these frees anything.
    static let candidatesMax = 65_536

    let policy: EvictionPolicy
    /// A sequence that was used within this time counts as in use.
    let idle: Duration
    private var inquiry: Inquiry?
    /// On their way.
    private var current: Set<SequenceID> = []
    /// Candidates that are passed over, because they freed nothing.
    private var skipped = 0
    private var uses: [SequenceID: Use] = [:]
    private var clock: UInt64 = 0
    /// Bytes that each rank wanted freed when it said so last. Whether it still does it says when it is asked.
    private var wanted: [RankIndex: UInt64] = [:]
    private var evictedNames: [(name: String, cause: EvictionCause)] = []
    private var hasBegun = false

    /// A question to the ranks that want bytes freed.
    private struct Inquiry: Sendable {
        var number: UInt64
        var awaited: Set<RankIndex>
        var isCut: Bool
        var victims: Set<SequenceID> = []
    }

    struct Use: Sendable {
        var order: UInt64
        var at: Duration
    }

    init(policy: EvictionPolicy = .off, idle: Duration = .seconds(10)) {
        self.policy = policy
        self.idle = idle
    }

    mutating func used(_ sequences: some Sequence<SequenceID>, at now: Duration) {
        for sequence in sequences {
            clock += 1
            uses[sequence] = Use(order: clock, at: now)
        }
    }

    /// The ranks have joined for the first time since the start: what they say is the order so far.
    ///
    /// All have seen much the same; one that was started later has seen less, and knows of the time before only the order
    /// of changes. So the one that has seen most has the last word, on each sequence that it has.
    mutating func begin(_ joined: [JoinedRank]) {
        guard !hasBegun else { return }
        hasBegun = true
        func knows(_ rank: JoinedRank) -> (UInt64, RankIndex) { (rank.registration.useCount, rank.registration.rank) }
        for rank in joined.sorted(by: { knows($0) < knows($1) }) {
            for sequence in rank.holdings.order {
                clock += 1
                uses[sequence, default: Use(order: 0, at: .zero)].order = clock
            }
        }
    }

    mutating func report(_ byteCount: UInt64, from rank: RankIndex) { wanted[rank] = byteCount > 0 ? byteCount : nil }

    mutating func forget(_ rank: RankIndex) { wanted[rank] = nil }

    /// Whether the ranks should be asked now, if anything may go.
    var isDue: Bool { inquiry == nil && current.isEmpty && !wanted.isEmpty }

    /// The rank that wants most, and how much, for the log.
    var mostWanted: (rank: RankIndex, byteCount: UInt64)? {
        wanted.max { ($0.value, $1.key) < ($1.value, $0.key) }.map { ($0.key, $0.value) }
    }

    private func lastUse(of id: SequenceID) -> Use { uses[id] ?? Use(order: 0, at: .zero) }

    /// Sequences that may go to make room and are not in use, those that go first first.
    func candidates(among entries: some Sequence<SequenceEntry>, now: Duration) -> [SequenceID] {
        // Of a million, those that are wanted by a full store each time: a number for each is sorted, and no entry copied.
        var places: [(place: UInt64, id: SequenceID)] = []
        for entry in entries {
            let lastUse = lastUse(of: entry.record.id)
            guard policy == .lru || entry.retention.isKept, now - lastUse.at >= idle else { continue }
            let isHeld: UInt64 = entry.retention.isKept ? 0 : 1
            let priority = UInt64(Int(entry.retention.priority) - Int(Int8.min))
            places.append((isHeld << 63 | priority << 55 | lastUse.order & (1 << 55 - 1), entry.record.id))
        }
        return places.sorted { $0 < $1 }.map(\.id)
    }

    /// When a sequence will have been unused for as long as it may; nil for one that may be so forever.
    func endOfLife(of entry: SequenceEntry) -> Duration? {
        let timeToLive = entry.retention.timeToLive
        return timeToLive > 0 ? lastUse(of: entry.record.id).at + .seconds(Int(timeToLive)) : nil
    }

    /// Begins a round.
    /// - Parameter candidates: the least recently used first.
    /// - Returns: whom to ask, and for which of the candidates.
    mutating func ask(
        _ number: UInt64, _ candidates: [SequenceID]
    ) -> (ranks: Set<RankIndex>, candidates: [SequenceID]) {
        if skipped >= candidates.count { skipped = 0 }
        let told = Array(candidates[skipped...].prefix(Self.candidatesMax))
        inquiry = Inquiry(
            number: number, awaited: Set(wanted.keys), isCut: skipped > 0 || told.count < candidates.count)
        return (Set(wanted.keys), told)
    }

    /// - Returns: what has to go, when that was the last answer; nil until then, and for an answer to an older question.
    mutating func answered(_ rank: RankIndex, _ number: UInt64, _ victims: [SequenceID]) -> Set<SequenceID>? {
        guard var asked = inquiry, asked.number == number else { return nil }
        asked.awaited.remove(rank)
        asked.victims.formUnion(victims)
        inquiry = asked.awaited.isEmpty ? nil : asked
        guard asked.awaited.isEmpty else { return nil }
        skipped = asked.isCut && asked.victims.isEmpty ? skipped + Self.candidatesMax : 0
        return asked.victims
    }

    mutating func began(_ entry: SequenceEntry, _ cause: EvictionCause) {
        if case .room = cause { current.insert(entry.record.id) }
        uses[entry.record.id] = nil
        opened(entry.record.name)
        evictedNames.append((entry.record.name, cause))
        if evictedNames.count > Self.remembersMax { evictedNames.removeFirst() }
    }

    /// It is gone, on all ranks.
    mutating func ended(_ sequence: SequenceID) { current.remove(sequence) }

    /// A rank was lost: what is still wanted is for the ranks to say again.
    mutating func abandon() {
        inquiry = nil
        current = []
        wanted = [:]
    }

    /// No longer there, whoever closed it.
    mutating func closed(_ sequence: SequenceID) { uses[sequence] = nil }

    /// A new sequence of that name is nobody's who was evicted.
    mutating func opened(_ name: String) { evictedNames.removeAll { $0.name == name } }

    /// Why it was evicted, if it was.
    func cause(of name: String) -> EvictionCause? { evictedNames.last { $0.name == name }?.cause }
}
