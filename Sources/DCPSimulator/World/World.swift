// SPDX-License-Identifier: Apache-2.0

internal import DCPOracle

/// Simulated time, everything that is still to happen in it, and the randomness it is drawn from.
///
/// DESIGN. One thread takes events off one queue, in the order of their times and, within one time, in the order they
/// were added. Whatever the daemons do (turns of their event loops, timers, bytes that arrive, computations, write
/// transactions) is an event of the *process* it belongs to: it is late while the process is paused, and is dropped with
/// all it holds when the process dies. Delays are drawn from the seed. So one seed is one history, bit for bit; every
/// event goes into the trace, whose hash tells whether two runs were the same.
///
/// @unchecked Sendable, here and in the whole module: a world and all in it are used by the one thread that runs it. The
/// daemons' closures are `@Sendable`, hence the conformance.
final class World: @unchecked Sendable {
    /// A future event. Held by the queue, and by code that may cancel it.
    final class Event: @unchecked Sendable {
        fileprivate(set) var time: UInt64
        let ordinal: UInt64
        let process: Process?
        let label: StaticString
        fileprivate(set) var body: (() -> Void)?

        fileprivate init(
            time: UInt64, ordinal: UInt64, process: Process?, label: StaticString, body: @escaping () -> Void
        ) {
            self.time = time
            self.ordinal = ordinal
            self.process = process
            self.label = label
            self.body = body
        }

        func cancel() { body = nil }
    }

    /// Nanoseconds. Begins at a second, so that differences to a moment before the start are not negative.
    private(set) var now: UInt64 = 1_000_000_000
    var random: SeededGenerator
    let trace: Trace
    private(set) var eventCount = 0
    let census = Census()
    private var queue = EventHeap()
    private var nextOrdinal: UInt64 = 0

    init(seed: UInt64, trace: Trace) {
        random = SeededGenerator(seed: seed)
        self.trace = trace
    }

    // MARK: Chance

    /// Whether something happens that does so `probability` of the time.
    func chance(_ probability: Double) -> Bool { Double.random(in: 0..<1, using: &random) < probability }

    func draw(_ range: ClosedRange<Int>) -> Int { Int.random(in: range, using: &random) }

    /// Nanoseconds between two durations, most of them near the lower.
    func delay(_ range: ClosedRange<Duration>) -> UInt64 {
        let low = range.lowerBound.nanoseconds
        let high = range.upperBound.nanoseconds
        let part = Double.random(in: 0..<1, using: &random)
        return low + UInt64(Double(high - low) * part * part)
    }

    // MARK: Events

    /// Adds an event `delay` nanoseconds from now.
    @discardableResult
    func after(_ delay: UInt64, _ process: Process?, _ label: StaticString, _ body: @escaping () -> Void) -> Event {
        at(now + delay, process, label, body)
    }

    @discardableResult
    func at(_ time: UInt64, _ process: Process?, _ label: StaticString, _ body: @escaping () -> Void) -> Event {
        let event = Event(time: max(time, now), ordinal: nextOrdinal, process: process, label: label, body: body)
        nextOrdinal += 1
        if let process, !process.isAlive {
            event.cancel()
            return event
        }
        queue.push(event)
        return event
    }

    /// Makes the next event happen. Returns false when there is none before `deadline`.
    func step(until deadline: UInt64) -> Bool {
        while let event = queue.first {
            guard event.body != nil else {
                queue.removeFirst()
                continue
            }
            guard event.time <= deadline else { return false }
            queue.removeFirst()
            if let process = event.process, process.pausedUntil > event.time {
                // It keeps its ordinal, so that a paused process finds its events in the order of arrival. It stays the
                // same object, so that it can still be cancelled.
                event.time = process.pausedUntil
                queue.push(event)
                continue
            }
            now = event.time
            eventCount += 1
            let body = event.body!
            event.cancel()
            trace.add(now, event.process?.name ?? "world", event.label)
            body()
            return true
        }
        return false
    }

    /// Drops all that a dead process had still to do, with what it holds.
    func dropEvents(of process: Process) {
        let dropped = queue.removeAll { $0.process === process }
        for event in dropped { event.cancel() }
    }

    func dropEverything() {
        for event in queue.removeAll(where: { _ in true }) { event.cancel() }
    }
}

/// One life of a daemon or client: from its start to its death.
final class Process: @unchecked Sendable {
    let name: String
    let world: World
    private(set) var isAlive = true
    /// Stopped by a signal until then; its kernel keeps running, so connections stay open.
    var pausedUntil: UInt64 = 0
    /// Factor by which everything it does takes longer.
    var slowness: UInt64 = 1
    var channels: [SimulatedChannel] = []

    init(name: String, world: World) {
        self.name = name
        self.world = world
        world.census.add(self)
    }

    /// Reads that block on its disk, each an event.
    var reads: @Sendable (@escaping @Sendable () -> Void) -> Void {
        { [unowned self] work in
            world.after(world.delay(.microseconds(20) ... .milliseconds(20)) * slowness, self, "read", work)
        }
    }

    /// Ends it between two events.
    func die() {
        isAlive = false
        world.dropEvents(of: self)
    }
}

/// A binary heap by time, then by ordinal.
private struct EventHeap {
    private var events: [World.Event] = []

    var first: World.Event? { events.first }

    private func isBefore(_ a: World.Event, _ b: World.Event) -> Bool { (a.time, a.ordinal) < (b.time, b.ordinal) }

    mutating func push(_ event: World.Event) {
        events.append(event)
        var child = events.count - 1
        while child > 0 {
            let parent = (child - 1) / 2
            guard isBefore(events[child], events[parent]) else { break }
            events.swapAt(child, parent)
            child = parent
        }
    }

    mutating func removeFirst() {
        events.swapAt(0, events.count - 1)
        events.removeLast()
        sink(0)
    }

    private mutating func sink(_ start: Int) {
        var parent = start
        while true {
            var least = parent
            for child in [2 * parent + 1, 2 * parent + 2]
            where child < events.count && isBefore(events[child], events[least]) {
                least = child
            }
            guard least != parent else { return }
            events.swapAt(parent, least)
            parent = least
        }
    }

    mutating func removeAll(where isDropped: (World.Event) -> Bool) -> [World.Event] {
        let dropped = events.filter(isDropped)
        events.removeAll(where: isDropped)
        for parent in stride(from: events.count / 2, through: 0, by: -1) where !events.isEmpty { sink(parent) }
        return dropped
    }
}

extension Duration {
    var nanoseconds: UInt64 {
        UInt64(components.seconds) * 1_000_000_000 + UInt64(components.attoseconds / 1_000_000_000)
    }
}
