// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPWire
internal import NIOCore

/// The pending operations of one rank, and those that may be sent now, as a value.
///
/// Operations on the same model or sequence are applied in the order in which they were recorded, whatever their
/// results. Every operation takes a place in the queue of each object that it concerns, and is sent when it is at the
/// front of all of them. It keeps its places until it is confirmed or ended: if the rank cannot apply it now,
/// operations on other objects overtake it, but none that depends on it does. Operations that only need an object to
/// exist, such as an open its model and a fork its parent, share a place. At most `window` are in flight. Rejected:
/// sending all of them and leaving the order to the rank's write queue. That queue refuses operations above its limit
/// and accepts later ones when there is room again, so truncations overtook the forks that should keep their tokens.
/// Places are taken in all queues at once, in the order of the operations' numbers, so no two operations wait for each
/// other. The cost of an operation does not depend on their number.
struct OperationQueue: Sendable {
    private enum Thing: Hashable {
        case model(ModelID)
        case sequence(SequenceID)
    }

    private struct Place {
        var thing: Thing
        /// Needs the object to exist, and does not change it.
        var isShared: Bool
    }

    private struct Entry {
        var operation: DirectoryOperation
        var places: [Place]
        /// Queues in which it is not at the front yet.
        var linesAhead = 0
        var isOnItsWay = false
        /// Is or was sent again.
        var isRetried = false
    }

    private struct Line {
        private var front = 0
        private var isFrontShared = true
        private var others = CircularBuffer<(number: UInt64, isShared: Bool)>(initialCapacity: 1)

        var isEmpty: Bool { front == 0 }

        private func takes(_ isShared: Bool) -> Bool { front == 0 || (isShared && isFrontShared) }

        /// - Returns: whether it is at the front immediately.
        mutating func join(_ number: UInt64, isShared: Bool) -> Bool {
            guard others.isEmpty, takes(isShared) else {
                others.append((number, isShared))
                return false
            }
            front += 1
            isFrontShared = isShared
            return true
        }

        /// One at the front leaves.
        /// - Returns: the operations that are now at the front.
        mutating func leave() -> [UInt64] {
            front -= 1
            var moved: [UInt64] = []
            while let next = others.first, takes(next.isShared) {
                others.removeFirst()
                front += 1
                isFrontShared = next.isShared
                moved.append(next.number)
            }
            return moved
        }
    }

    private let window: Int
    private var entries: [UInt64: Entry] = [:]
    private var lines: [Thing: Line] = [:]
    /// At the front of all their queues, and not sent yet.
    private var sendable = CircularBuffer<UInt64>()
    /// Sent, but the rank could not apply them then.
    private var postponed = CircularBuffer<UInt64>()
    /// How many of those may be sent again now.
    private var retries = 0
    private var onTheirWay = 0

    init(window: Int) { self.window = window }

    /// No operation is in flight.
    var isIdle: Bool { onTheirWay == 0 }

    /// - Parameter model: of the sequence that the operation concerns, where it is known.
    mutating func append(_ number: UInt64, _ operation: DirectoryOperation, of model: ModelID?) {
        var entry = Entry(operation: operation, places: Self.places(of: operation, model))
        for place in entry.places {
            let isFirst = lines[place.thing, default: Line()].join(number, isShared: place.isShared)
            if !isFirst { entry.linesAhead += 1 }
        }
        entries[number] = entry
        if entry.linesAhead == 0 { sendable.append(number) }
    }

    private static func places(of operation: DirectoryOperation, _ model: ModelID?) -> [Place] {
        func uses(_ model: ModelID?) -> [Place] { model.map { [Place(thing: .model($0), isShared: true)] } ?? [] }
        return switch operation {
        case .putModel(let record): [Place(thing: .model(record.id), isShared: false)]
        case .removeModel(let id): [Place(thing: .model(id), isShared: false)]
        case .open(let record): uses(record.model) + [Place(thing: .sequence(record.id), isShared: false)]
        case .fork(let parent, let child, _, _):
            uses(model) + [
                Place(thing: .sequence(parent), isShared: true), Place(thing: .sequence(child), isShared: false),
            ]
        case .truncate(let id, _), .close(let id), .evict(let id), .claim(let id, _, _), .retain(let id, _):
            uses(model) + [Place(thing: .sequence(id), isShared: false)]
        }
    }

    /// The operations to send now; they count as in flight from here on.
    mutating func takeSendable() -> [(number: UInt64, operation: DirectoryOperation)] {
        var taken: [(number: UInt64, operation: DirectoryOperation)] = []
        while onTheirWay < window {
            let number: UInt64
            if retries > 0, let again = postponed.popFirst() {
                retries -= 1
                number = again
                entries[number]!.isRetried = true
            } else if let first = sendable.popFirst() {
                number = first
            } else {
                break
            }
            onTheirWay += 1
            entries[number]!.isOnItsWay = true
            taken.append((number, entries[number]!.operation))
        }
        return taken
    }

    /// The rank has answered.
    /// - Returns: false if the operation was not in flight.
    mutating func answered(_ number: UInt64) -> Bool {
        guard entries[number]?.isOnItsWay ?? false else { return false }
        entries[number]!.isOnItsWay = false
        onTheirWay -= 1
        return true
    }

    /// The rank cannot apply the operation now: it is repeated.
    mutating func postpone(_ number: UInt64) { postponed.append(number) }

    /// Time has passed. One window of postponed operations is repeated, and more while the rank applies some of them,
    /// so that a rank that cannot apply any is not sent all of them each time.
    mutating func retry() { retries = min(window, postponed.count) }

    /// It has ended: operations behind it may be sent.
    mutating func remove(_ number: UInt64) {
        guard let entry = entries.removeValue(forKey: number) else { return }
        if entry.isRetried, retries < postponed.count { retries += 1 }
        for place in entry.places {
            for next in lines[place.thing]!.leave() {
                entries[next]!.linesAhead -= 1
                if entries[next]!.linesAhead == 0 { sendable.append(next) }
            }
            if lines[place.thing]!.isEmpty { lines[place.thing] = nil }
        }
    }
}
