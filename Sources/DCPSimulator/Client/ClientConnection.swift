// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPTransport
internal import DCPWire
internal import NIOCore

/// A client's link to the coordinator or to a rank, with requests and replies: what `Connection` is to `Cluster`, for a
/// caller that is a simulated process.
final class ClientConnection: LinkDelegate {
    typealias Reply = (Result<Frame, ServiceError>) -> Void

    private struct Pending {
        var done: Reply
        var deadline: Scheduled<Void>
    }

    private let loop: SimulatedLoop
    private let unreachable: ServiceError.Code
    private var link: Link?
    private var waiting: [Frame] = []
    private var pending: [Tag: Pending] = [:]
    private(set) var isClosed = false

    init(
        _ endpoint: Endpoint, of role: CertificateRole, loop: SimulatedLoop, settings: LinkSettings,
        unreachable: ServiceError.Code
    ) {
        self.loop = loop
        self.unreachable = unreachable
        let bound = NIOLoopBound(self, eventLoop: loop)
        Dialer(eventLoop: loop, settings: settings).dial(
            endpoint, expecting: role, hello: Hello(role: .client, fingerprint: nil), delegate: self
        ) { error in bound.value.end(ServiceError(bound.value.unreachable, error.message)) }
    }

    /// `done` is called once; at the latest when the timeout has passed. Sending the same tag again replaces nothing.
    func request(_ frame: Frame, timeout: Duration, done: @escaping Reply) {
        guard !isClosed else { return done(.failure(ServiceError(.rankUnavailable, "The connection is closed."))) }
        let bound = NIOLoopBound(self, eventLoop: loop)
        let tag = frame.tag
        let deadline = loop.scheduleTask(in: TimeAmount(timeout)) {
            bound.value.answer(tag, .failure(ServiceError(.deadlineExceeded, "No answer within \(timeout).")))
        }
        pending[tag] = Pending(done: done, deadline: deadline)
        send(frame)
    }

    /// Sends without expecting another answer than the pending one.
    func send(_ frame: Frame) {
        guard let link else {
            if !isClosed { waiting.append(frame) }
            return
        }
        do throws(ServiceError) {
            try link.send(frame)
        } catch {
            answer(frame.tag, .failure(error))
        }
    }

    func close() {
        let reason = ServiceError(.rankUnavailable, "The client closed the connection.")
        link?.close(reason)
        end(reason)
    }

    private func answer(_ tag: Tag, _ result: Result<Frame, ServiceError>) {
        guard let pending = pending.removeValue(forKey: tag) else { return }
        pending.deadline.cancel()
        pending.done(result)
    }

    private func end(_ error: ServiceError) {
        isClosed = true
        link = nil
        waiting = []
        let tags = pending.keys.sorted { ($0.number, $0.layer, $0.attempt) < ($1.number, $1.layer, $1.attempt) }
        for tag in tags { answer(tag, .failure(error)) }
    }

    // MARK: LinkDelegate

    func link(_ link: Link, accepts hello: Hello) throws(ServiceError) -> Hello {
        throw ServiceError(.internal, "An outbound link does not accept connections.")
    }

    func link(_ link: Link, opened peer: Hello) {
        guard !isClosed else { return link.close(ServiceError(.rankUnavailable, "Closed meanwhile.")) }
        self.link = link
        let frames = waiting
        waiting = []
        for frame in frames { send(frame) }
    }

    func link(_ link: Link, received frame: Frame) {
        if case .failure(let error) = frame.message {
            if frame.tag.client.value == 0 { return end(ServiceError(unreachable, error.message)) }
            return answer(frame.tag, .failure(error))
        }
        answer(frame.tag, .success(frame))
    }

    func link(_ link: Link, closed error: ServiceError) { end(ServiceError(unreachable, error.message)) }
}

extension TimeAmount {
    init(_ duration: Duration) { self = .nanoseconds(Int64(duration.nanoseconds)) }
}
