// SPDX-License-Identifier: Apache-2.0

package import NIOCore

/// Computations on a rank's event loop, which are shorter than handing them to a thread and back.
///
/// DESIGN: in a turn the loop reads from its links, then runs tasks until there are none. Each computation here is a
/// separate task, and frames sent by the previous one leave first. By their estimates, all computations of a turn take
/// at most `turnMax`, however many links have steps: other frames wait no longer than that, and the rest goes to the
/// compute threads. Estimates are of shapes, not of clocks, so that a simulated history repeats.
///
/// Confined to the loop.
package final class LoopWork {
    /// The time to wake two threads: the compute thread, and the loop for its result. Measured: 30 us each.
    package static let handover = TimeAmount.microseconds(60)

    private let eventLoop: any EventLoop
    private let threads: Int
    private let turnMax: TimeAmount
    /// The estimated time of what was taken since the loop last had nothing to compute.
    private var taken = TimeAmount.zero
    /// Computations that other ranks or the client wait for, and others.
    private var awaited: CircularBuffer<() -> Void> = []
    private var others: CircularBuffer<() -> Void> = []
    private var isScheduled = false
    /// Computations that threads have and have not returned.
    package var onThreads = 0

    /// - Parameters:
    ///   - threads: of the pool that takes what is not taken here.
    ///   - turnMax: zero takes nothing.
    package init(eventLoop: any EventLoop, threads: Int, turnMax: TimeAmount) {
        self.eventLoop = eventLoop
        self.threads = threads
        self.turnMax = turnMax
    }

    /// Whether a computation is done sooner here, and fits into what is left of the turn; its time is then taken from that.
    ///
    /// What takes longer than a handover is left to the threads while they are at work: the rank was given so many
    /// processors, and not one more. It also leaves room in the turn for what is short, of which each step has some.
    /// - Parameter splits: whether all threads would share it.
    package func takes(_ time: TimeAmount, splits: Bool = false) -> Bool {
        guard taken + time <= turnMax else { return false }
        if time > Self.handover {
            let there = splits ? .nanoseconds(time.nanoseconds / Int64(threads)) : time
            guard onThreads == 0, time <= there + Self.handover, taken + time + Self.handover <= turnMax else {
                return false
            }
        }
        taken = taken + time
        return true
    }

    /// Runs a computation that was taken, after the earlier ones of this turn.
    /// - Parameter isAwaited: runs before computations that nothing waits for.
    package func run(isAwaited: Bool, _ body: @escaping () -> Void) {
        if isAwaited {
            awaited.append(body)
        } else {
            others.append(body)
        }
        guard !isScheduled else { return }
        isScheduled = true
        onLoop { $0.runNext() }
    }

    /// Releases what has not run; see `RankServer.abandon`.
    func abandon() { (awaited, others) = ([], []) }

    private func runNext() {
        guard let body = awaited.popFirst() ?? others.popFirst() else {
            isScheduled = false
            taken = .zero
            return
        }
        body()
        // Not at once: after the frames that its result sends.
        onLoop { $0.runNext() }
    }

    private func onLoop(_ body: @escaping (LoopWork) -> Void) {
        let bound = NIOLoopBound((work: self, body: body), eventLoop: eventLoop)
        eventLoop.execute { bound.value.body(bound.value.work) }
    }
}
