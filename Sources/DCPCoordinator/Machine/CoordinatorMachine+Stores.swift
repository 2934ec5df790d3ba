// SPDX-License-Identifier: Apache-2.0

public import DCPCore
package import DCPWire

/// The durable marks of the ranks' stores, as they reported them, as a value.
struct StoreMarks: Sendable {
    /// The minimum interval between recording rising marks.
    static let period = Duration.seconds(1)

    private(set) var reported: [RankIndex: UInt64] = [:]
    private var recordedAt = Duration.zero

    mutating func report(_ mark: UInt64, from rank: RankIndex) {
        if mark > reported[rank] ?? 0 { reported[rank] = mark }
    }

    mutating func isDue(now: Duration) -> Bool {
        guard now - recordedAt >= Self.period else { return false }
        recordedAt = now
        return true
    }

    mutating func forget(_ rank: RankIndex) { reported[rank] = nil }
}

/// Processes that registered with a store in use, by incarnation, as a value.
struct SecondHolders: Sendable {
    private struct Newcomer {
        var rank: RankIndex
        var since: Duration
        var isReported = false
    }

    private static let max = 1024
    private var newcomers: [UInt64: Newcomer] = [:]

    /// - Parameter heard: when the holder was last heard from. If that is after the newcomer registered, the holder has
    ///   not just died.
    /// - Returns: whether to report it; true only once.
    mutating func came(_ incarnation: UInt64, _ rank: RankIndex, heard: Duration, now: Duration) -> Bool {
        guard let known = newcomers[incarnation] else {
            if newcomers.count >= Self.max { newcomers = [:] }
            newcomers[incarnation] = Newcomer(rank: rank, since: now)
            return false
        }
        guard !known.isReported, heard > known.since else { return false }
        newcomers[incarnation]!.isReported = true
        return true
    }

    mutating func forget(_ rank: RankIndex) { newcomers = newcomers.filter { $0.value.rank != rank } }
}

/// The losses of ranks' stores that an operator has confirmed.
public struct RankLoss: Hashable, Sendable {
    public var rank: RankIndex
    public var loss: StoreLoss

    public init(_ rank: RankIndex, _ loss: StoreLoss) {
        self.rank = rank
        self.loss = loss
    }
}

/// Operators' requests about stores.
extension CoordinatorMachine {
    package var recordedStores: [RecordedStore] {
        state.stores.sorted { $0.key < $1.key }.map { rank, store in
            RecordedStore(rank: rank, store: store, mark: state.marks[rank] ?? 0, isHere: isHere(rank))
        }
    }

    /// - Throws: `.conflict` if the store is not recorded, or not lost.
    package mutating func giveUp(_ loss: StoreLoss, of rank: RankIndex) throws(ServiceError) {
        guard let store = state.stores[rank] else {
            throw ServiceError(
                .conflict, "\(rank) has no store in this cluster; `dcpctl store list` shows the known stores.")
        }
        guard !isHere(rank) else {
            throw ServiceError(
                .conflict,
                "\(rank) is registered with its store \(store): nothing is lost. To give its store up, stop the rank "
                    + "first.",
                rank: rank)
        }
        let mark = state.marks[rank] ?? 0
        guard loss == .store(store) || loss == .changes(mark) else {
            throw ServiceError(
                .conflict,
                "\(rank) has store \(store) at change \(mark) by now; check it with `dcpctl store list` "
                    + "and try again.", rank: rank)
        }
        losses.insert(RankLoss(rank, loss))
    }

    /// Whether this loss is confirmed. A line in the configuration may stay: after the replacement it has no effect.
    mutating func spend(_ loss: StoreLoss, of rank: RankIndex) -> Bool {
        let loss = RankLoss(rank, loss)
        return losses.remove(loss) != nil || configuredLosses.contains(loss)
    }

    private func isHere(_ rank: RankIndex) -> Bool { members.contains { $0.rank == rank } }
}

/// Decides which store of a rank is the right one: never two at a time, and never one behind its reported mark.
extension CoordinatorMachine {
    /// Two processes with one store are an original and a copy. The registered one stays while it keeps its lease; the
    /// other retries, and is accepted if the first turns out to be dead.
    mutating func refuseSecondHolder(
        _ newcomer: Registration, _ link: LinkID, beside member: Member, now: Duration
    ) -> [Action] {
        let rank = newcomer.rank, holder = member.registration
        let error = ServiceError(
            .notReady,
            "\(rank) is already registered with store \(holder.store): \(holder.holder), at \(holder.endpoint), was "
                + "last heard from \(now - member.lastHeard) ago. Another process came with the same store: "
                + "\(newcomer.holder), at \(newcomer.endpoint). One of the two runs on a copy; stop that "
                + "one.", rank: rank)
        let isNews = secondHolders.came(newcomer.incarnation, rank, heard: member.lastHeard, now: now)
        return (isNews ? [.report(.secondHolder(rank, error))] : []) + refuse(link, error)
    }

    func olderStore(_ registration: Registration) -> ServiceError {
        let rank = registration.rank
        return ServiceError(
            .storeRefused,
            "\(rank) came with its store \(registration.store) at change \(registration.mark), but change "
                + "\(state.marks[rank] ?? 0) was durable before: it is an older copy. Restore the newer store; if it "
                + "is lost for good, `dcpctl store accept-older \(rank.value)` accepts this one, which cuts every "
                + "sequence to what it holds.",
            rank: rank)
    }

    /// Accepts an older store in place of the lost newer one.
    ///
    /// A join cuts each sequence to the tokens that all ranks have. That keeps too much if the sequence was cut since:
    /// its later tokens may differ from those in the older store, and this could not be detected. So it is cut there
    /// again.
    mutating func takeOlder(_ registration: Registration) -> [Action] {
        let (rank, epoch, recorded) = (registration.rank, registration.epoch, state.marks[registration.rank] ?? 0)
        var changes = [StateChange.mark(rank, registration.mark)]
        var cuts: [(SequenceRecord, to: Int)] = []
        for var entry in state.sortedSequences {
            let known = entry
            if let length = entry.history.shortest(since: epoch), length < entry.truncateLength ?? .max {
                entry.truncateLength = length
                cuts.append((entry.record, to: length))
            }
            if let fork = entry.fork, let length = state.sequences[fork.parent]?.history.shortest(since: epoch) {
                entry.fork!.length = min(fork.length, length)
            }
            if entry != known { changes.append(.sequence(entry)) }
        }
        return persist(changes)
            + [.report(.olderStoreTaken(rank, mark: registration.mark, recorded: recorded, cuts: cuts))]
    }

    /// Sends a rank the directory mark if it does not know it, before any operation, so that the rank records both
    /// together.
    ///
    /// Not while a backup begins: the coordinator's copy is made before the ranks' copies, and would be behind them.
    mutating func tellDirectoryMark(to rank: RankIndex) -> [Action] {
        let mark = state.directoryMark
        guard copying == nil, case .present(let member) = slots[rank], member.directoryMark < mark else { return [] }
        update(rank) { $0.directoryMark = mark }
        return [.send(.directoryMark(mark), number: 0, to: member.link)]
    }

    /// Makes the marks durable that have risen.
    mutating func recordMarks(now: Duration) -> [Action] { marks.isDue(now: now) ? recordMarks() : [] }

    mutating func recordMarks(lost rank: RankIndex) -> [Action] {
        defer { marks.forget(rank) }
        return recordMarks()
    }

    private mutating func recordMarks() -> [Action] {
        persist(
            marks.reported.sorted { $0.key < $1.key }.filter { $0.value > state.marks[$0.key] ?? 0 }.map {
                .mark($0.key, $0.value)
            })
    }
}
