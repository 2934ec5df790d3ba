// SPDX-License-Identifier: Apache-2.0

package import DCPCore
internal import DCPTransport
package import DCPWire

/// A client's request with one or more items, until the last of them is answered.
struct PendingRequest: Sendable {
    var link: CoordinatorMachine.LinkID
    var tag: Tag
    var caller: Caller
    var reply: PendingReply
}

/// Which item of which request.
package struct ItemPlace: Hashable, Sendable {
    var request: UInt64
    var index: Int
}

/// An item that is being carried out.
package struct PendingItem<Item: RequestItem>: Sendable {
    var place: ItemPlace

    /// The answer for a client when the operation has succeeded.
    func answer(_ answer: Item.Answer) -> ItemWaiter {
        ItemWaiter(place: place, answer: EncodedAnswer(.success(answer)))
    }
}

/// A client that waits for an item, and its answer.
package struct ItemWaiter: Sendable {
    var place: ItemPlace
    var answer: EncodedAnswer
}

/// The directory's action for an item.
package protocol DirectoryItem: RequestItem {
    /// - Throws: the reason for a refusal; nothing has changed then.
    func carryOut(
        on machine: inout CoordinatorMachine, _ item: PendingItem<Self>, from tag: Tag, now: Duration
    ) throws(ServiceError) -> [CoordinatorMachine.Action]
}

extension CoordinatorMachine {
    /// A client's request with one or more items. Each succeeds or fails independently; their changes are made durable
    /// together.
    package mutating func requested<Item: DirectoryItem>(
        _ request: Many<Item>, link: LinkID, tag: Tag, from caller: Caller, now: Duration
    ) -> [Action] {
        let number = nextRequest
        nextRequest += 1
        requests[number] = PendingRequest(link: link, tag: tag, caller: caller, reply: PendingReply(to: request))
        var actions: [Action] = []
        for (index, part) in request.items.enumerated() {
            let item = PendingItem<Item>(place: ItemPlace(request: number, index: index))
            do throws(ServiceError) {
                actions += try part.carryOut(on: &self, item, from: tag, now: now)
            } catch {
                if error.code == .accessDenied {
                    actions.append(.report(.refused(peer: caller.identity, .missingRight, error)))
                }
                actions += refuse(item.place, error)
            }
        }
        if request.items.isEmpty { actions += finish(number) }
        return Self.persistingFirst(actions)
    }

    /// The caller of an item in progress.
    func caller(of place: ItemPlace) -> Caller { requests[place.request]!.caller }

    /// The operation that a client waits for has succeeded.
    mutating func answer(_ waiter: ItemWaiter) -> [Action] { answer(waiter.place, waiter.answer) }

    mutating func refuse(_ place: ItemPlace, _ error: ServiceError) -> [Action] {
        answer(place, EncodedAnswer(error))
    }

    private mutating func answer(_ place: ItemPlace, _ answer: EncodedAnswer) -> [Action] {
        requests[place.request]?.reply.answer(place.index, with: answer)
        return finish(place.request)
    }

    private mutating func finish(_ number: UInt64) -> [Action] {
        guard let request = requests[number], let message = request.reply.message else { return [] }
        requests[number] = nil
        return [.answer(message, request.tag, to: request.link)]
    }

    /// One synced write for all changes before any answer; making a change durable earlier than necessary does no harm.
    private static func persistingFirst(_ actions: [Action]) -> [Action] {
        var changes: [StateChange] = []
        var rest: [Action] = []
        for action in actions {
            if case .persist(let some) = action { changes += some } else { rest.append(action) }
        }
        return changes.isEmpty ? rest : [.persist(changes)] + rest
    }
}
