// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPTransport
internal import DCPWire
internal import NIOCore
internal import Synchronization

/// A link with requests and replies, for `async` callers. Safe to use from any thread.
final class Connection: Sendable {
    let endpoint: Endpoint
    private let eventLoop: any EventLoop
    private let state: NIOLoopBound<ConnectionState>
    private let openFlag: OpenFlag

    private init(
        endpoint: Endpoint, eventLoop: any EventLoop, state: NIOLoopBound<ConnectionState>, openFlag: OpenFlag
    ) {
        self.endpoint = endpoint
        self.eventLoop = eventLoop
        self.state = state
        self.openFlag = openFlag
    }

    /// Connects and sends a hello as a client.
    /// - Parameters:
    ///   - name: the expected peer, for messages: `rank 2`, `the coordinator`.
    ///   - rank: its rank, for errors and for the role that its certificate must have.
    ///   - tls: for TCP; nil uses plain TCP, only on loopback.
    ///   - timeout: of a request, and of the peer's hello, for which it is 5 s at most.
    /// - Throws: `.unreachable` or `.rankUnavailable` if no daemon answers; the peer's refusal; `.deadlineExceeded`.
    static func open(
        _ endpoint: Endpoint, name: String, rank: RankIndex? = nil, tls: TLSCredentials?, timeout: Duration,
        eventLoop: any EventLoop
    ) async throws(ServiceError) -> Connection {
        let settings = LinkSettings(handshakeTimeout: min(.seconds(5), TimeAmount(timeout)), tls: tls)
        let openFlag = OpenFlag()
        let opened = eventLoop.flatSubmit {
            let promise = eventLoop.makePromise(of: NIOLoopBound<ConnectionState>.self)
            let state = ConnectionState(
                endpoint: endpoint, name: name, rank: rank, helloTimeout: settings.handshakeTimeout,
                eventLoop: eventLoop, openFlag: openFlag, opened: promise)
            Dialer(eventLoop: eventLoop, settings: settings).dial(
                endpoint, expecting: rank.map { .rank($0) } ?? .coordinator,
                hello: Hello(role: .client, fingerprint: nil), delegate: state
            ) { error in state.failed(error) }
            return promise.futureResult
        }
        return Connection(
            endpoint: endpoint, eventLoop: eventLoop, state: try await opened.result(), openFlag: openFlag)
    }

    /// Whether requests may be sent; it may close at any moment after.
    var isOpen: Bool { openFlag.value.load(ordering: .acquiring) }

    /// Sends a request. The future is of this connection's loop; it fails with a `ServiceError`, at the latest after
    /// `timeout`.
    func request<R: Request>(_ request: R, epoch: Epoch, tag: Tag, timeout: Duration) -> EventLoopFuture<R.Reply> {
        let (state, eventLoop) = (state, eventLoop)
        return eventLoop.flatSubmit {
            let frame = Frame(epoch: epoch, tag: tag, message: .request(request))
            let promise = eventLoop.makePromise(of: EncodedBody.self)
            state.value.request(frame, timeout: TimeAmount(timeout)) { promise.completeWith($0.mapError { $0 }) }
            return promise.futureResult.flatMapResult { reply in
                Result { () throws(ServiceError) in try reply.reply(to: R.self) }
            }
        }
    }

    /// Asks several peers, each over a connection of its own, under one tag. All connections are of one loop, which only sends:
    /// requests are written, and replies read, by the caller.
    /// - Returns: the replies in the order of the requests.
    /// - Throws: the first failure, at the latest after `timeout`.
    static func ask<R: Request>(
        _ requests: [(connection: Connection, request: R)], epoch: Epoch, tag: Tag, timeout: Duration
    ) async throws(ServiceError) -> [R.Reply] {
        guard let eventLoop = requests.first?.connection.eventLoop else { return [] }
        let parts = requests.map { connection, request in
            (state: connection.state, frame: Frame(epoch: epoch, tag: tag, message: .request(request)))
        }
        let outcome = await withCheckedContinuation {
            (continuation: CheckedContinuation<Result<[EncodedBody], ServiceError>, Never>) in
            eventLoop.execute {
                let gathering = Gathering(parts.count, continuation)
                for (index, part) in parts.enumerated() {
                    part.state.value.request(part.frame, timeout: TimeAmount(timeout)) { gathering.take($0, at: index) }
                }
            }
        }
        var replies: [R.Reply] = []
        for body in try outcome.get() { replies.append(try body.reply(to: R.self)) }
        return replies
    }

    func close() {
        let state = state
        eventLoop.execute { state.value.close() }
    }

    deinit { close() }
}

/// Replies that are waited for together: all of them, or the first failure. Confined to the loop.
private final class Gathering {
    private var replies: [EncodedBody?]
    private var missing: Int
    private var continuation: CheckedContinuation<Result<[EncodedBody], ServiceError>, Never>?

    init(_ count: Int, _ continuation: CheckedContinuation<Result<[EncodedBody], ServiceError>, Never>) {
        replies = Array(repeating: nil, count: count)
        missing = count
        self.continuation = continuation
    }

    func take(_ result: Result<EncodedBody, ServiceError>, at index: Int) {
        guard let continuation else { return }
        switch result {
        case .success(let reply):
            replies[index] = reply
            missing -= 1
            guard missing == 0 else { return }
            continuation.resume(returning: .success(replies.map { $0! }))
        case .failure(let error): continuation.resume(returning: .failure(error))
        }
        self.continuation = nil
    }
}

/// Shared by a connection and its state on the loop, which sets it.
private final class OpenFlag: Sendable {
    let value = Atomic(false)
}

/// The loop's side of a connection.
private final class ConnectionState: LinkDelegate {
    private let endpoint: Endpoint
    private let name: String
    private let rank: RankIndex?
    private let helloTimeout: TimeAmount
    private let eventLoop: any EventLoop
    private let openFlag: OpenFlag
    private var opened: EventLoopPromise<NIOLoopBound<ConnectionState>>?
    private var link: Link? {
        didSet { openFlag.value.store(link != nil, ordering: .releasing) }
    }
    private typealias Done = (Result<EncodedBody, ServiceError>) -> Void
    private var pending: [Tag: (done: Done, deadline: Scheduled<Void>)] = [:]
    private var closeReason: ServiceError?
    /// The link holds its delegate weakly.
    private var keepsItself: ConnectionState?

    init(
        endpoint: Endpoint, name: String, rank: RankIndex?, helloTimeout: TimeAmount, eventLoop: any EventLoop,
        openFlag: OpenFlag, opened: EventLoopPromise<NIOLoopBound<ConnectionState>>
    ) {
        self.endpoint = endpoint
        self.name = name
        self.rank = rank
        self.helloTimeout = helloTimeout
        self.eventLoop = eventLoop
        self.openFlag = openFlag
        self.opened = opened
        keepsItself = self
    }

    /// - Parameter done: called once, on the loop.
    func request(
        _ frame: Frame, timeout: TimeAmount, done: @escaping (Result<EncodedBody, ServiceError>) -> Void
    ) {
        guard let link else { return done(.failure(closeReason ?? unavailable("The connection is closed."))) }
        let bound = NIOLoopBound(self, eventLoop: eventLoop)
        let tag = frame.tag
        let deadline = eventLoop.scheduleTask(in: timeout) { bound.value.expired(tag, after: timeout) }
        precondition(pending[tag] == nil, "a tag is in use by at most one request")
        pending[tag] = (done, deadline)
        do throws(ServiceError) {
            try link.send(frame)
        } catch {
            finish(tag, .failure(error))
        }
    }

    func close() { link?.close(ServiceError(.shuttingDown, "The client closed the connection.")) }

    /// The connection could not be made.
    func failed(_ error: ServiceError) {
        var error = error
        if let rank, error.code == .unreachable {
            error = ServiceError(
                .rankUnavailable, "\(error.message) Start it: \(ServiceStart.of(rank, beside: endpoint)).", rank: rank)
        }
        closeReason = error
        opened?.fail(error)
        opened = nil
        keepsItself = nil
    }

    private func expired(_ tag: Tag, after timeout: TimeAmount) {
        let seconds = Double(timeout.nanoseconds) / 1e9
        finish(
            tag,
            .failure(
                ServiceError(
                    .deadlineExceeded, "\(name) did not answer within \(seconds) s; try again or raise --timeout.",
                    rank: rank)))
    }

    private func silent() -> ServiceError {
        let seconds = Double(helloTimeout.nanoseconds) / 1e9
        return ServiceError(
            .deadlineExceeded,
            "\(name) took the connection, but sent no hello within \(seconds) s: it is suspended or overloaded. Try again, "
                + "with a longer --timeout if it is below 5 s.", rank: rank)
    }

    private func finish(_ tag: Tag, _ result: Result<EncodedBody, ServiceError>) {
        guard let (done, deadline) = pending.removeValue(forKey: tag) else { return }
        deadline.cancel()
        done(result)
    }

    private func unavailable(_ what: String) -> ServiceError {
        ServiceError(
            rank == nil ? .unreachable : .rankUnavailable, "\(name): \(what) Try again when it is back.", rank: rank)
    }

    func link(_ link: Link, accepts hello: Hello) throws(ServiceError) -> Hello {
        throw ServiceError(.internal, "An outbound link does not accept connections.")
    }

    func link(_ link: Link, opened peer: Hello) {
        guard peer.rank == rank else {
            link.close(ServiceError(.incompatible, "Expected \(name) at this endpoint, but found \(peer.sender)."))
            return
        }
        self.link = link
        opened?.succeed(NIOLoopBound(self, eventLoop: eventLoop))
        opened = nil
    }

    func link(_ link: Link, received frame: Frame) {
        switch frame.message {
        case .reply(let reply): finish(frame.tag, .success(reply))
        case .failure(let error):
            // Client 0: the peer is about to close the connection, and gives the reason.
            if frame.tag.client == ClientID(0) { closeReason = error }
            finish(frame.tag, .failure(error))
        default:
            let type = frame.message.type
            finish(frame.tag, .failure(ServiceError(.protocolViolation, "\(name) answered with a \(type) frame.")))
        }
    }

    func link(_ link: Link, closed error: ServiceError) {
        self.link = nil
        guard opened == nil else {
            // Refused: the peer's own reason is the better message. A link that waited in vain names a daemon's setting.
            opened?.fail(error.code == .deadlineExceeded ? silent() : error)
            opened = nil
            keepsItself = nil
            return
        }
        let reason = closeReason ?? (error.code == .rankUnavailable ? unavailable(error.message) : error)
        closeReason = reason
        for tag in pending.keys { finish(tag, .failure(reason)) }
        keepsItself = nil
    }
}

extension EventLoopFuture where Value: Sendable {
    /// The value, with the error as the type it always is here.
    func result() async throws(ServiceError) -> Value {
        do {
            return try await get()
        } catch let error as ServiceError {
            throw error
        } catch {
            throw ServiceError(.internal, "\(error)")
        }
    }
}
