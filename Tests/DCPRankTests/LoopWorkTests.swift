// SPDX-License-Identifier: Apache-2.0

import DCPRank
import NIOCore
import NIOPosix
import Testing

@Suite("LoopWork: what the event loop computes itself", .timeLimit(.minutes(1)))
struct LoopWorkTests {
    /// What happened on the loop, in order.
    private final class Record {
        var events: [String] = []
    }

    private func onLoop<Value: Sendable>(
        _ body: @escaping @Sendable (any EventLoop) throws -> EventLoopFuture<Value>
    ) async throws -> Value {
        let loop = MultiThreadedEventLoopGroup.singleton.next()
        return try await loop.flatSubmit {
            do { return try body(loop) } catch { return loop.makeFailedFuture(error) }
        }.get()
    }

    /// Fulfilled when the loop has no tasks of this turn left, however many follow each other.
    private static func turnEnd(_ loop: any EventLoop) -> EventLoopFuture<Void> {
        let promise = loop.makePromise(of: Void.self)
        loop.scheduleTask(in: .milliseconds(1)) { promise.succeed() }
        return promise.futureResult
    }

    @Test("64 clients bring steps in one turn: what does not fit is the threads', and the next turn is a whole one")
    func budget() async throws {
        let (first, second) = try await onLoop { loop in
            let work = LoopWork(eventLoop: loop, threads: 1, turnMax: .microseconds(500))
            func turn() -> Int {
                (0..<64).count { _ in
                    guard work.takes(.microseconds(50)) else { return false }
                    work.run(isAwaited: false) {}
                    return true
                }
            }
            let first = turn()
            let bound = NIOLoopBound(turn, eventLoop: loop)
            return Self.turnEnd(loop).map { (first, bound.value()) }
        }
        #expect(first == 10 && second == 10)
    }

    @Test("earlier messages are delivered first, and sent messages leave before the next computation")
    func order() async throws {
        let events = try await onLoop { loop in
            let work = LoopWork(eventLoop: loop, threads: 1, turnMax: .milliseconds(1))
            let record = NIOLoopBound(Record(), eventLoop: loop)
            func note(_ event: String) { record.value.events.append(event) }
            // As a step's shell does: a result is taken at once, and what it has written is flushed by a task.
            func compute(_ name: String, isAwaited: Bool) {
                work.run(isAwaited: isAwaited) {
                    record.value.events.append(name)
                    loop.execute { record.value.events.append("flush of \(name)") }
                }
            }
            compute("append", isAwaited: false)
            compute("new tokens", isAwaited: false)
            compute("context", isAwaited: true)
            note("another frame")
            return Self.turnEnd(loop).map { record.value.events }
        }
        #expect(
            events == ["another frame"]
                + ["context", "append", "new tokens"].flatMap { [$0, "flush of \($0)"] })
    }

    @Test(
        "work longer than a handover runs on the loop if there is one idle thread, or if all threads would save less",
        arguments: [
            (1, 0, 400, true, true), (1, 1, 400, true, false), (1, 1, 60, false, true), (2, 0, 100, true, true),
            (2, 0, 140, true, false), (16, 0, 61, true, true), (16, 0, 400, true, false), (16, 0, 400, false, true),
            (1, 0, 440, true, true), (1, 0, 441, true, false),
        ])
    func places(threads: Int, busy: Int, microseconds: Int, splits: Bool, isHere: Bool) async throws {
        let found = try await onLoop { loop in
            let work = LoopWork(eventLoop: loop, threads: threads, turnMax: .microseconds(500))
            work.onThreads = busy
            return loop.makeSucceededFuture(work.takes(.microseconds(Int64(microseconds)), splits: splits))
        }
        #expect(found == isHere)
    }

    @Test("a turn of no length computes nothing")
    func none() async throws {
        let takes = try await onLoop { loop in
            let work = LoopWork(eventLoop: loop, threads: 1, turnMax: .zero)
            return loop.makeSucceededFuture(work.takes(.nanoseconds(1)))
        }
        #expect(!takes)
    }
}
