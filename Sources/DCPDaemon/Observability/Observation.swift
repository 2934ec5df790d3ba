// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import NIOCore
internal import Synchronization

/// A daemon's server as the endpoint, and a reload, reach it: there once it listens, and until it has stopped.
///
/// Measurements are copied on the daemon's event loop, in its turn, as a task of their own; text is made of them elsewhere.
/// So a scrape costs the loop some microseconds and never changes the order of what it does. A loop that is stuck is not
/// waited for longer than `patience`.
final class Observation<Server, Measurements: Sendable>: Sendable {
    private struct Source: Sendable {
        var server: NIOLoopBound<Server>
        var eventLoop: any EventLoop
    }

    private let source = Mutex<Source?>(nil)
    private let standing = Mutex("starting")
    private let measure: @Sendable (Server) -> Measurements

    init(measure: @escaping @Sendable (Server) -> Measurements) { self.measure = measure }

    private static var patience: Duration { .seconds(5) }

    /// The daemon's activity while there is no server: `dialling the coordinator`.
    func isStarting(_ what: String) { standing.withLock { $0 = what } }

    func began(_ server: NIOLoopBound<Server>, _ eventLoop: any EventLoop) {
        source.withLock { $0 = Source(server: server, eventLoop: eventLoop) }
    }

    /// The server has ended: it is not queried from here on.
    func ended() {
        standing.withLock { $0 = "stopping" }
        source.withLock { $0 = nil }
    }

    /// Lets the server do something on its loop; nothing when there is none.
    func perform(_ body: @escaping @Sendable (Server) -> Void) {
        guard let source = source.withLock({ $0 }) else { return }
        source.eventLoop.execute { body(source.server.value) }
    }

    /// - Throws: `.notReady` before there is a server and after it has gone, `.deadlineExceeded` when its loop is stuck.
    func measurements() async throws(ServiceError) -> Measurements {
        guard let source = source.withLock({ $0 }) else {
            throw ServiceError(.notReady, "the daemon is \(standing.withLock { $0 })")
        }
        let (server, measure, patience) = (source.server, measure, Self.patience)
        let answer = FirstAnswer<Measurements>()
        let timer = Task {
            try await Task.sleep(for: patience)
            answer.give(nil)
        }
        let measurements = await answer.wait {
            source.eventLoop.execute { answer.give(measure(server.value)) }
        }
        timer.cancel()
        guard let measurements else {
            throw ServiceError(.deadlineExceeded, "the daemon's event loop has not responded for \(patience)")
        }
        return measurements
    }
}

/// The first of several answers; later ones are dropped.
private final class FirstAnswer<Value: Sendable>: Sendable {
    private let waiter = Mutex<CheckedContinuation<Value?, Never>?>(nil)

    func wait(_ ask: () -> Void) async -> Value? {
        await withCheckedContinuation { continuation in
            waiter.withLock { $0 = continuation }
            ask()
        }
    }

    func give(_ value: Value?) {
        let waiter = waiter.withLock { waiter in
            defer { waiter = nil }
            return waiter
        }
        waiter?.resume(returning: value)
    }
}
