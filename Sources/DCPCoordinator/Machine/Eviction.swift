// SPDX-License-Identifier: Apache-2.0

public import DCPCore
internal import DCPWire

/// The coordinator's policy when a rank's store is full and no kept sequence makes room.
public enum EvictionPolicy: String, CaseIterable, Sendable {
    /// Nothing: new tokens are refused until a client closes or truncates sequences.
    case off
    /// Closes the least recently used sequences on all ranks until a store has the space that it needs.
    case lru
}

/// Why the coordinator closed a sequence on its own decision.
public enum EvictionCause: Hashable, Sendable {
    /// A rank needed this many bytes.
    case room(RankIndex, byteCount: UInt64)
    /// It was not used for this many seconds.
    case age(UInt32)
}

/// Selects the sequences to evict, as a value.
///
/// Kept sequences go first, then, with `lru`, those with a client; within each kind the lowest priority first, and
/// within a priority the least recently used. Eviction proceeds in rounds. The coordinator sends the ranks that need
/// space the candidates, and each answers with the victims, because only it knows which blocks sequences share. All
/// victims are closed together before the next round, so that no more are closed than needed and no round waits for a
/// lease renewal. Rejected: each rank's bytes with its renewals, because the space that a sequence frees depends on
/// which others go, and only the coordinator knows which are pinned or busy. Uses are ordered by the coordinator's own
/// count of reports, never by a rank's clock. They are not persisted here: after a restart of the coordinator all
/// sequences count as used at its start, in the order that the ranks know. Rejected: an order in the coordinator's
/// state, which would be a synced write for data that the ranks have anyway.
struct Eviction: Sendable {
    /// Number of remembered names of evicted sequences; the oldest are dropped.
    static let remembersMax = 1024
    /// Candidates in one round, half a megabyte; the next round has later ones if none of these frees anything.
    static let candidatesMax = 65_536

    let policy: EvictionPolicy
    /// A sequence that was used within this time counts as in use.
    let idle: Duration
    private var inquiry: Inquiry?
    /// Being closed.
    private var current: Set<SequenceID> = []
    /// Candidates that are skipped, because they freed nothing.
    private var skipped = 0
    private var uses: [SequenceID: Use] = [:]
    private var clock: UInt64 = 0
    /// Bytes that each rank last requested. Its answer in a round is based on its current need.
    private var wanted: [RankIndex: UInt64] = [:]
    private var evictedNames: [(name: String, cause: EvictionCause)] = []
    private var hasBegun = false
    /// What the ranks reported and is not counted yet; the one that knows most is last.
    private var reports: [ArraySlice<SequenceID>] = []

    /// A round: the request to the ranks that need space.
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

    /// The ranks have joined for the first time since the start, and report the order of uses.
    ///
    /// All have seen much the same; one that was restarted later has seen less, and knows only the order of changes for
    /// the time before. The rank that has seen the most uses therefore determines the order of each sequence that it
    /// has.
    mutating func begin(_ joined: [JoinedRank]) {
        guard !hasBegun else { return }
        hasBegun = true
        func knows(_ rank: JoinedRank) -> (UInt64, RankIndex) { (rank.registration.useCount, rank.registration.rank) }
        reports = joined.sorted { knows($0) < knows($1) }.map { $0.holdings.order[...] }
    }

    /// Counts some of what the ranks have reported: all of it may be a million uses of each rank.
    /// - Returns: whether there was something to count.
    mutating func countReports(atMost count: Int) -> Bool {
        guard let report = reports.first else { return false }
        for sequence in report.prefix(count) {
            clock += 1
            uses[sequence, default: Use(order: 0, at: .zero)].order = clock
        }
        reports[0] = report.dropFirst(count)
        if reports[0].isEmpty { reports.removeFirst() }
        return true
    }

    mutating func report(_ byteCount: UInt64, from rank: RankIndex) { wanted[rank] = byteCount > 0 ? byteCount : nil }

    mutating func forget(_ rank: RankIndex) { wanted[rank] = nil }

    /// Whether the ranks should be asked now, if anything may go.
    var isDue: Bool { inquiry == nil && current.isEmpty && !wanted.isEmpty }

    /// The rank that needs the most space, and the amount, for the log.
    var mostWanted: (rank: RankIndex, byteCount: UInt64)? {
        wanted.max { ($0.value, $1.key) < ($1.value, $0.key) }.map { ($0.key, $0.value) }
    }

    private func lastUse(of id: SequenceID) -> Use { uses[id] ?? Use(order: 0, at: .zero) }

    /// Sequences that may be evicted and are not in use, in the order of eviction.
    func candidates(among entries: some Sequence<SequenceEntry>, now: Duration) -> [SequenceID] {
        // There may be a million: it sorts one number for each and copies no entry.
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

    /// When a sequence reaches its time to live; nil without one.
    func endOfLife(of entry: SequenceEntry) -> Duration? {
        let timeToLive = entry.retention.timeToLive
        return timeToLive > 0 ? lastUse(of: entry.record.id).at + .seconds(Int(timeToLive)) : nil
    }

    /// Begins a round.
    /// - Parameter candidates: the least recently used first.
    /// - Returns: the ranks to ask, and the candidates.
    mutating func ask(
        _ number: UInt64, _ candidates: [SequenceID]
    ) -> (ranks: Set<RankIndex>, candidates: [SequenceID]) {
        if skipped >= candidates.count { skipped = 0 }
        let told = Array(candidates[skipped...].prefix(Self.candidatesMax))
        inquiry = Inquiry(
            number: number, awaited: Set(wanted.keys), isCut: skipped > 0 || told.count < candidates.count)
        return (Set(wanted.keys), told)
    }

    /// - Returns: the victims after the last answer; nil before, and for an answer to an older round.
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

    /// It is closed on all ranks.
    mutating func ended(_ sequence: SequenceID) { current.remove(sequence) }

    /// A rank was lost: the ranks report their needs again, and in the next join uses that have not been counted.
    mutating func abandon() {
        if !reports.isEmpty { (reports, hasBegun) = ([], false) }
        inquiry = nil
        current = []
        wanted = [:]
    }

    /// It no longer exists, for any reason.
    mutating func closed(_ sequence: SequenceID) { uses[sequence] = nil }

    /// A new sequence of that name is not the evicted one.
    mutating func opened(_ name: String) { evictedNames.removeAll { $0.name == name } }

    /// Why it was evicted, if it was.
    func cause(of name: String) -> EvictionCause? { evictedNames.last { $0.name == name }?.cause }
}
