// SPDX-License-Identifier: Apache-2.0

package import DCPCore
package import DCPWire

/// The beginning of a backup, until every daemon holds its store, as a value.
struct Copying: Sendable {
    /// The maximum time for which operations are held back.
    static let waitMax = Duration.seconds(10)

    var item: PendingItem<BeginCopy>
    var number: UInt64
    var deadline: Duration
    /// Ranks that do not hold their stores yet; nil while operations are still in progress.
    var awaited: Set<RankIndex>?
}

/// All stores are held at the same moment: when no operation is in flight to a rank, and none is sent until every rank
/// holds its store.
///
/// Steps and commits continue. A commit that only some ranks' copies have is cut at the join after a restore, as after
/// a crash; commits acknowledged before the backup began are in all copies. An operation must be in all copies or in
/// none: if one rank had applied a truncation and continued with other tokens while another had not, old and new tokens
/// would be mixed, and lengths do not distinguish them. An operation that is recorded but not applied is in the
/// coordinator's copy, and pending as after a crash.
extension BeginCopy: DirectoryItem {
    package func carryOut(
        on machine: inout CoordinatorMachine, _ item: PendingItem<Self>, from tag: Tag, now: Duration
    ) throws(ServiceError) -> [CoordinatorMachine.Action] {
        try machine.checkReady()
        guard machine.copying == nil else {
            throw ServiceError(.overloaded, "Another backup is starting; try again in a moment.")
        }
        let wait = min(.milliseconds(Int64(waitMilliseconds)), Copying.waitMax)
        machine.copying = Copying(item: item, number: machine.takeNumber(), deadline: now + wait)
        return machine.copyIfDrained()
    }
}

extension CoordinatorMachine {
    /// Makes the ranks hold their stores when no operation is in flight.
    mutating func copyIfDrained() -> [Action] {
        guard let pending = copying, pending.awaited == nil, queues.values.allSatisfy(\.isIdle) else { return [] }
        copying!.awaited = Set(state.shape.allRanks)
        return [.hold(pending.number)]
            + members.map { .send(.copyRequest, number: pending.number, to: $0.member.link) }
    }

    /// A rank holds its store.
    package mutating func copyHeld(_ link: LinkID, number: UInt64) -> [Action] {
        guard let rank = rank(of: link), copying?.number == number, copying?.awaited?.remove(rank) != nil,
            let begun = copying, begun.awaited!.isEmpty
        else { return [] }
        copying = nil
        return answer(begun.item.answer(BegunCopy(number: number, epoch: state.epoch))) + sendQueued()
    }

    /// A rank, or the coordinator's own store, cannot be held, or it takes too long.
    package mutating func endCopying(_ error: ServiceError) -> [Action] {
        guard let pending = copying else { return [] }
        copying = nil
        return refuse(pending.item.place, error) + sendQueued()
    }

    mutating func endLateCopying(now: Duration) -> [Action] {
        guard let pending = copying, now >= pending.deadline else { return [] }
        return endCopying(
            ServiceError(
                .deadlineExceeded,
                "The ranks did not hold their stores in time: operations in progress, or steps that a truncation "
                    + "waits for, have not ended. Try again."))
    }
}
