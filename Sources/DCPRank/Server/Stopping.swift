// SPDX-License-Identifier: Apache-2.0

internal import NIOCore

/// How far a rank's stop has come: `serving → draining → flushing`, and stopped when the last link is closed.
///
/// Its promises are for the caller to keep: what follows from them changes this value.
struct Stopping {
    private enum Phase {
        case serving
        case draining(EventLoopPromise<Void>)
        /// The last answers are being written.
        case flushing(EventLoopPromise<Void>)
    }

    private var phase = Phase.serving
    /// Done when the last link is closed after the drain, or is not waited for any more.
    let close: EventLoopPromise<Void>

    init(on eventLoop: any EventLoop) { close = eventLoop.makePromise() }

    /// Done when no step and no commit is in flight, or those in flight take too long; nil until the rank is told to stop.
    var drain: EventLoopPromise<Void>? {
        switch phase {
        case .serving: nil
        case .draining(let promise), .flushing(let promise): promise
        }
    }

    var isFlushing: Bool {
        if case .flushing = phase { return true }
        return false
    }

    /// The rank is told to stop.
    mutating func beginDrain(on eventLoop: any EventLoop) -> EventLoopFuture<Void> {
        guard case .serving = phase else { preconditionFailure("a rank is told to stop once") }
        let promise = eventLoop.makePromise(of: Void.self)
        phase = .draining(promise)
        return promise.futureResult
    }

    mutating func beginFlush() {
        guard case .draining(let promise) = phase else { preconditionFailure("links are closed after the drain") }
        phase = .flushing(promise)
    }
}
