// SPDX-License-Identifier: Apache-2.0

package import DCPCore
package import DCPWire

/// A request that arrived over a link and waits for its answer.
package struct Call<R: Request> {
    private let caller: WeakLink
    package let tag: Tag
    package let epoch: Epoch

    init(_ frame: Frame, over link: Link) {
        caller = link.weak
        tag = frame.tag
        epoch = frame.epoch
    }

    /// nil when the client has gone.
    package var link: Link? { caller.link }
}

/// The handlers of a daemon's requests, one for each request.
package struct RequestTable<Server>: Sendable {
    private typealias Handler = @Sendable (Server, EncodedBody, Frame, Link) -> Result<Void, ServiceError>

    private var handlers: [FrameType: Handler] = [:]

    package init() {}

    package mutating func on<R: Request>(
        _ request: R.Type, _ handler: @escaping @Sendable (Server, R, Call<R>) -> Void
    ) {
        precondition(handlers[R.type] == nil, "\(R.type) already has a handler")
        handlers[R.type] = { server, body, frame, link in
            do throws(ServiceError) {
                try link.caller.check(R.right, for: "\(R.type)")
                handler(server, try body.request(as: R.self), Call(frame, over: link))
                return .success(())
            } catch {
                return .failure(error)
            }
        }
    }

    /// Decodes a request and passes it to its handler.
    /// - Throws: `.accessDenied` if its sender lacks the right; `.protocolViolation` if this daemon does not accept it,
    ///   or its fields cannot be decoded. Then nothing was done, and the frame was complete: the connection may stay
    ///   open.
    package func handle(_ body: EncodedBody, of frame: Frame, from link: Link, by server: Server) throws(ServiceError) {
        guard let handler = handlers[body.type] else {
            throw ServiceError(
                .protocolViolation,
                "A client sent a \(body.type) frame, which this daemon does not accept; see Protocol."
            )
        }
        try handler(server, body, frame, link).get()
    }
}
