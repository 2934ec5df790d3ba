// SPDX-License-Identifier: Apache-2.0

internal import NIOCore

/// What a rank does every second, and when it last did what is due less often.
struct Upkeep {
    /// How long an idle sequence stays in RAM; nil for no limit.
    private let memoryIdle: TimeAmount?
    private var lastRelease = NIODeadline.uptimeNanoseconds(0)
    private var timer: RepeatedTask?

    init(memoryIdle: TimeAmount?) { self.memoryIdle = memoryIdle }

    mutating func start(on eventLoop: any EventLoop, _ body: @escaping @Sendable () -> Void) {
        timer = eventLoop.scheduleRepeatedTask(initialDelay: .seconds(1), delay: .seconds(1)) { _ in body() }
    }

    func stop() { timer?.cancel() }

    /// Whether sequences not used since the last release are dropped from RAM now: after one to two periods.
    mutating func releasesMemory(at now: NIODeadline) -> Bool {
        guard let memoryIdle, now >= lastRelease + memoryIdle else { return false }
        lastRelease = now
        return true
    }
}
