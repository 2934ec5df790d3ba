// SPDX-License-Identifier: Apache-2.0

internal import Dispatch
internal import NIOCore

/// The event loop of one simulated process: its turns and timers are events of the world.
final class SimulatedLoop: EventLoop, @unchecked Sendable {
    let process: Process
    private let world: World
    /// When the last task begins: tasks run in the order they were given.
    private var lastTask: UInt64 = 0

    init(_ process: Process) {
        self.process = process
        world = process.world
    }

    /// There is one thread, and it is always in the loop whose event runs.
    var inEventLoop: Bool { true }

    var now: NIODeadline { .uptimeNanoseconds(world.now) }

    func execute(_ task: @escaping @Sendable () -> Void) {
        lastTask = max(lastTask, world.now + world.delay(.microseconds(1) ... .microseconds(60)) * process.slowness)
        world.at(lastTask, process, "turn", task)
    }

    func submit<Value>(_ task: @escaping @Sendable () throws -> Value) -> EventLoopFuture<Value> {
        let promise = makePromise(of: Value.self)
        execute { Self.complete(promise, task) }
        return promise.futureResult
    }

    func scheduleTask<Value>(
        deadline: NIODeadline, _ task: @escaping @Sendable () throws -> Value
    ) -> Scheduled<Value> {
        let promise = makePromise(of: Value.self)
        // Timers are late, never early.
        let late = world.delay(.zero ... .milliseconds(1)) * process.slowness
        let event = world.at(max(deadline.uptimeNanoseconds, world.now) + late, process, "timer") {
            Self.complete(promise, task)
        }
        return Scheduled(promise: promise, cancellationTask: { event.cancel() })
    }

    func scheduleTask<Value>(
        in delay: TimeAmount, _ task: @escaping @Sendable () throws -> Value
    ) -> Scheduled<Value> {
        scheduleTask(deadline: now + delay, task)
    }

    private static func complete<Value>(_ promise: EventLoopPromise<Value>, _ task: () throws -> Value) {
        do {
            // There is one thread: whatever the value is, it goes nowhere else.
            promise.assumeIsolatedUnsafeUnchecked().succeed(try task())
        } catch {
            promise.fail(error)
        }
    }

    func shutdownGracefully(queue: DispatchQueue, _ callback: @escaping @Sendable ((any Error)?) -> Void) {
        callback(nil)
    }
}
