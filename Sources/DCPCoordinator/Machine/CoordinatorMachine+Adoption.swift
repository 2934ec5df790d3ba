// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
package import DCPWire

/// Rebuilding the directory from the ranks' stores, as a value.
struct Adoption: Sendable {
    /// Sequences in one request for names: a frame of at most 2 MiB.
    static let pageMax = 4096

    /// Ranks whose stores are lost. The others' stores count without them.
    let replaced: Set<RankIndex>
    /// The distance of the new epoch from the highest that the ranks have seen. It is random, because a copy of a store
    /// may be registered in place of one that is still serving and has seen more, including an adoption.
    let epochMargin: UInt64
    /// The highest that a rank's store has seen.
    private(set) var epoch = Epoch.none
    /// The cluster of the stores.
    private(set) var cluster: ClusterID?
    /// Sequences whose names each rank has not been asked for yet.
    private var pages: [RankIndex: [[SequenceID]]] = [:]
    private var awaited: [UInt64: RankIndex] = [:]
    private(set) var records: [RankIndex: [SequenceID: SequenceRecord]] = [:]

    init(replaced: Set<RankIndex>, epochMargin: UInt64) {
        self.replaced = replaced
        self.epochMargin = epochMargin
    }

    mutating func note(_ registration: Registration) {
        epoch = max(epoch, registration.epoch)
        if registration.cluster != .none { cluster = registration.cluster }
    }

    mutating func begin(_ joined: [JoinedRank]) {
        (awaited, records, pages) = ([:], [:], [:])
        for rank in joined {
            let ids = rank.holdings.order
            pages[rank.registration.rank] = stride(from: 0, to: ids.count, by: Self.pageMax).map {
                Array(ids[$0..<min($0 + Self.pageMax, ids.count)])
            }
        }
    }

    /// The next sequences to ask a rank for.
    mutating func next(of rank: RankIndex, number: UInt64) -> [SequenceID]? {
        guard let page = pages[rank]?.popLast() else { return nil }
        awaited[number] = rank
        return page
    }

    /// - Returns: false if the rank was not asked.
    mutating func take(_ some: [SequenceRecord], of rank: RankIndex, number: UInt64) -> Bool {
        guard awaited[number] == rank else { return false }
        awaited[number] = nil
        for record in some { records[rank, default: [:]][record.id] = record }
        return true
    }

    var isComplete: Bool { awaited.isEmpty && pages.values.allSatisfy(\.isEmpty) }
}

/// Rebuilds the directory from the ranks' stores if the state is lost or an older copy.
///
/// An operator must request it, because only a person who knows what happened can distinguish a lost state from a wrong
/// one. All ranks must register with stores of one cluster. The coordinator begins an epoch well above all that they
/// have seen, requests the names of each rank's sequences when nothing changes them any more, and records the new
/// directory in one transaction. It also records that the adoption has begun: after a crash in the middle, it
/// continues.
extension CoordinatorMachine {
    /// Why a registering rank is refused, or nil.
    func stranger(_ newcomer: Registration) -> ServiceError? {
        let (rank, store) = (newcomer.rank, newcomer.store)
        func refusal(_ message: String) -> ServiceError { ServiceError(.storeRefused, message, rank: rank) }
        guard let adoption else {
            let remedy =
                "its state was lost, is an older copy, or is another cluster's. Restore the newest state; if it is "
                + "lost for good, restart the coordinator with --adopt-ranks, which rebuilds the directory from "
                + "the ranks' stores."
            if newcomer.cluster != .none, newcomer.cluster != state.cluster {
                return refusal(
                    "The store \(store) of \(rank) belongs to cluster \(newcomer.cluster), but this coordinator's "
                        + "state belongs to cluster \(state.cluster): \(remedy)")
            }
            guard newcomer.epoch <= state.epoch else {
                return refusal(
                    "\(rank) has seen \(newcomer.epoch), but this coordinator has seen only \(state.epoch): \(remedy)")
            }
            guard newcomer.epoch == state.epoch, newcomer.directoryMark > state.directoryMark else { return nil }
            return refusal(
                "\(rank) has seen change \(newcomer.directoryMark) of the directory in \(state.epoch), but this "
                    + "coordinator has seen only \(state.directoryMark): \(remedy)")
        }
        if newcomer.cluster == .none {
            guard !adoption.replaced.contains(rank) else { return nil }
            return refusal(
                "\(rank) came with the store \(store), which has never joined a cluster, but the coordinator rebuilds "
                    + "its directory from the stores. Start the rank with the right --store; if that store is lost for "
                    + "good, restart the coordinator with --adopt-without \(rank.value) and --adopt-ranks, which gives "
                    + "up the tokens that it held.")
        }
        // Before the first epoch, no rank knows the cluster id of the state.
        guard let cluster = adoption.cluster ?? (state.epoch == .none ? nil : state.cluster),
            newcomer.cluster != cluster
        else { return nil }
        let others = members.filter { $0.member.registration.cluster == cluster }.map { "\($0.rank)" }
        return refusal(
            "The store \(store) of \(rank) belongs to cluster \(newcomer.cluster), "
                + (others.isEmpty ? "this coordinator's state" : "the stores of \(others.joined(separator: ", "))")
                + " to cluster \(cluster): a directory is built from the stores of one cluster. Start each rank with "
                + "its --store of the intended cluster.")
    }

    /// All ranks have registered.
    mutating func beginAdoption() -> [StateChange] {
        adoption!.begin([])
        let epoch = Epoch(topology.epoch.value + adoption!.epochMargin)
        return [.epoch(epoch), .adopting(true)] + (adoption!.cluster.map { [.cluster($0)] } ?? [])
    }

    /// All have registered with their final lengths.
    mutating func askForRecords() -> [Action] {
        adoption!.begin(joined)
        return members.flatMap { askForRecords(of: $0.rank, $0.member.link) } + adoptIfComplete()
    }

    private mutating func askForRecords(of rank: RankIndex, _ link: LinkID) -> [Action] {
        let number = takeNumber()
        guard let page = adoption!.next(of: rank, number: number) else { return [] }
        return [.send(.recordsRequest(page), number: number, to: link)]
    }

    /// A rank has sent the names of some sequences.
    package mutating func records(
        _ link: LinkID, number: UInt64, _ records: [SequenceRecord]
    ) -> [Action] {
        guard let rank = rank(of: link), adoption?.take(records, of: rank, number: number) ?? false else { return [] }
        return askForRecords(of: rank, link) + adoptIfComplete()
    }

    private mutating func adoptIfComplete() -> [Action] {
        guard let adoption, adoption.isComplete else { return [] }
        let adopted = AdoptedDirectory(
            state, joined, records: adoption.records, replaced: adoption.replaced)
        self.adoption = nil
        return persist(adopted.changes + [.adopting(false)]) + [.report(.adopted(adopted.report))] + settle()
    }
}
