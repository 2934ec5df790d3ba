// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import NIOCore

/// Limits the unfinished frame of one link in time and, together with those of all links, in bytes.
///
/// Confined to the link's loop. Before the hello, `handshakeTimeout` and its limits apply; from then on this does.
final class FrameWatch {
    private let eventLoop: any EventLoop
    private let timeout: TimeAmount
    private let frames: UnfinishedFrames
    /// Called when the peer is refused.
    private let refuse: (RefusalCause, ServiceError) -> Void
    /// The unfinished frame: when its first bytes arrived, their number, and the frame's number if it is counted.
    private var current: (since: NIODeadline, byteCount: Int, number: UInt64?)?
    private var check: Scheduled<Void>?

    init(eventLoop: any EventLoop, settings: LinkSettings, refuse: @escaping (RefusalCause, ServiceError) -> Void) {
        self.eventLoop = eventLoop
        timeout = settings.frameTimeout
        frames = settings.unfinishedFrames
        self.refuse = refuse
    }

    /// Bytes have arrived.
    /// - Parameters:
    ///   - byteCount: the bytes received of an unfinished frame.
    ///   - hasEnded: whether the previously unfinished frame is complete.
    func received(unfinished byteCount: Int, hasEnded: Bool) {
        if hasEnded || byteCount == 0 { forget() }
        guard byteCount > 0 else { return }
        if current == nil { current = (eventLoop.now, 0, nil) }
        current?.byteCount = byteCount
        if check == nil { scheduleCheck(in: timeout) }
        guard byteCount > UnfinishedFrames.uncountedByteCount else { return }
        if current?.number == nil {
            let (bound, eventLoop) = (NIOLoopBound(Weak(watch: self), eventLoop: eventLoop), eventLoop)
            current?.number = frames.begin { number in
                eventLoop.execute { bound.value.watch?.overBudget(number) }
            }
        }
        if let number = current?.number { frames.update(number, byteCount: byteCount) }
    }

    /// The link is closed.
    func stop() {
        check?.cancel()
        forget()
    }

    private func forget() {
        if let number = current?.number { frames.end(number) }
        current = nil
    }

    /// One timer per link, re-armed while a frame is unfinished: most frames end long before it fires.
    private func scheduleCheck(in time: TimeAmount) {
        let bound = NIOLoopBound(Weak(watch: self), eventLoop: eventLoop)
        check = eventLoop.scheduleTask(in: time) { bound.value.watch?.checkTime() }
    }

    private func checkTime() {
        check = nil
        guard let current else { return }
        let left = timeout - (eventLoop.now - current.since)
        guard left <= .zero else { return scheduleCheck(in: left) }
        refuse(
            .unfinishedFrame,
            ServiceError(
                .deadlineExceeded,
                "\(current.byteCount) bytes of a frame arrived, but the rest did not follow within "
                    + "\(timeout.nanoseconds / 1_000_000) ms; the connection was closed. Send smaller frames, or "
                    + "raise frame-timeout."))
    }

    private func overBudget(_ number: UInt64) {
        // Its end may have arrived since the decision.
        guard current?.number == number else { return }
        refuse(
            .tooManyUnfinished,
            ServiceError(
                .overloaded,
                "Unfinished frames hold more than the limit of \(frames.byteCountMax) bytes in this daemon, and this "
                    + "connection's is the oldest; try again, or raise unfinished-frames-limit."))
    }

    /// Timers and the budget must not keep a link alive.
    private struct Weak {
        weak var watch: FrameWatch?
    }
}
