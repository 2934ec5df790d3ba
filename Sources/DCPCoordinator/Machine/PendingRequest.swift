package import DCPCore
internal import DCPTransport
package import DCPWire

/// A client's request for one or many things, until the last of them is answered.
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

    /// Whom to tell what, once it is true.
    func answer(_ answer: Item.Answer) -> ItemWaiter {
        ItemWaiter(place: place, answer: EncodedAnswer(.success(answer)))
    }
}

/// A client that waits for an item, and what it is told when that is done.
package struct ItemWaiter: Sendable {
    var place: ItemPlace
    var answer: EncodedAnswer
}

/// What the directory does on an item.
package protocol DirectoryItem: RequestItem {
    /// - Throws: why not; nothing has changed then.
    func carryOut(
        on machine: inout CoordinatorMachine, _ item: PendingItem<Self>, from tag: Tag, now: Duration
    ) throws(ServiceError) -> [CoordinatorMachine.Action]
}

extension CoordinatorMachine {
    /// A client asks for one or many things. Each is done or refused by itself; what they change is made durable together.
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

    /// Who asks for an item that is being carried out.
    func caller(of place: ItemPlace) -> Caller { requests[place.request]!.caller }

    /// What a waiting client was promised holds.
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

    /// One synced write for all changes, before anybody is told of any: what is durable earlier than it has to be harms
    /// nobody.
    private static func persistingFirst(_ actions: [Action]) -> [Action] {
        var changes: [StateChange] = []
        var rest: [Action] = []
        for action in actions {
            if case .persist(let some) = action { changes += some } else { rest.append(action) }
        }
        return changes.isEmpty ? rest : [.persist(changes)] + rest
    }
}
