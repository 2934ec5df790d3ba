// SPDX-License-Identifier: Apache-2.0

public import NIOCore

/// The state of the compute threads, at one moment.
public struct ComputeProgress: Hashable, Sendable {
    /// Pieces that no thread has taken up.
    public var waiting = 0
    /// Pieces that threads are at.
    public var running = 0
    /// Pieces that have ended since the start.
    public var finished: UInt64 = 0
    /// When the piece that has shown nothing for longest was taken up, or a part of it ended.
    public var oldestStart: NIODeadline?

    public init(waiting: Int = 0, running: Int = 0, finished: UInt64 = 0, oldestStart: NIODeadline? = nil) {
        self.waiting = waiting
        self.running = running
        self.finished = finished
        self.oldestStart = oldestStart
    }
}

/// Keeps count of a pool's pieces, as a value under the pool's lock.
struct ComputeProgressMeter {
    private var finished: UInt64 = 0
    private var next: UInt64 = 0
    /// As many as there are threads at most.
    private var running: [UInt64: NIODeadline] = [:]

    /// But for what waits.
    var progress: ComputeProgress {
        ComputeProgress(running: running.count, finished: finished, oldestStart: running.values.min())
    }

    /// - Returns: the number of the piece, for `ended`.
    mutating func began() -> UInt64 {
        next += 1
        running[next] = .now()
        return next
    }

    /// A part of the piece has ended.
    mutating func goesOn(_ number: UInt64) { running[number] = .now() }

    mutating func ended(_ number: UInt64) {
        running[number] = nil
        finished += 1
    }
}
