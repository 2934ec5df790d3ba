// SPDX-License-Identifier: Apache-2.0

import DCPCore
import DCPTransport
import DCPWire
import NIOCore
import NIOPosix

/// What happened on a link, in order.
enum LinkEvent: Sendable {
    case opened(Hello)
    case received(Frame)
    case shared(Result<Void, ServiceError>)
    case closed(ServiceError, wasRefused: Bool)
    case failed(ServiceError)
}

/// The owner of the links of one side: it records what they tell it, and hands the records to the test one by one.
///
/// `@unchecked Sendable`: `links` is touched on the event loop only; the stream is safe to use from anywhere.
final class Recorder: LinkDelegate, @unchecked Sendable {
    private(set) var links: [Link] = []
    private let accept: @Sendable (Hello) throws(ServiceError) -> Hello
    private let events: AsyncStream<LinkEvent>
    private let continuation: AsyncStream<LinkEvent>.Continuation

    init(
        accept: @escaping @Sendable (Hello) throws(ServiceError) -> Hello = { _ in
            Hello(role: .coordinator, fingerprint: nil)
        }
    ) {
        self.accept = accept
        (events, continuation) = AsyncStream.makeStream()
    }

    func link(_ link: Link, accepts hello: Hello) throws(ServiceError) -> Hello { try accept(hello) }

    func link(_ link: Link, opened peer: Hello) {
        links.append(link)
        continuation.yield(.opened(peer))
    }

    func link(_ link: Link, received frame: Frame) { continuation.yield(.received(frame)) }

    func link(_ link: Link, sharesMemory result: Result<Void, ServiceError>) { continuation.yield(.shared(result)) }

    func link(_ link: Link, closed error: ServiceError) {
        continuation.yield(.closed(error, wasRefused: link.refusal != nil))
    }

    func failed(_ error: ServiceError) { continuation.yield(.failed(error)) }

    /// The next record. One test task asks at a time.
    func next() async -> LinkEvent {
        for await event in events { return event }
        preconditionFailure("the stream never ends")
    }

    func opened() async throws -> Hello {
        guard case .opened(let hello) = await next() else { throw Unexpected() }
        return hello
    }

    func frame() async throws -> Frame {
        guard case .received(let frame) = await next() else { throw Unexpected() }
        return frame
    }

    func closed() async throws -> ServiceError {
        guard case .closed(let error, _) = await next() else { throw Unexpected() }
        return error
    }

    struct Unexpected: Error {}
}

extension LinkSettings {
    /// With time for a hello whose test waits for its turn, behind others that compute for seconds on all threads. What a test
    /// says of that time itself stands.
    fileprivate var patient: LinkSettings {
        var settings = self
        if settings.handshakeTimeout == LinkSettings().handshakeTimeout { settings.handshakeTimeout = .minutes(2) }
        return settings
    }
}

/// A listener and its loop. Everything is shut down by `stop`.
///
/// `@unchecked Sendable`: the listener is made before anything is shared, and used on the loop only.
final class Station: @unchecked Sendable {
    let group: MultiThreadedEventLoopGroup
    let loop: any EventLoop
    let recorder: Recorder
    private let listener: Listener

    init(_ endpoint: Endpoint, settings: LinkSettings = LinkSettings(), recorder: Recorder = Recorder()) {
        group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
        loop = group.next()
        self.recorder = recorder
        listener = Listener(endpoint, as: .coordinator, eventLoop: loop, settings: settings.patient)
    }

    /// Where it listens, once it does.
    func start() async throws -> Endpoint {
        try await loop.flatSubmit { self.listener.start(delegate: self.recorder) }.get()
        return try await loop.submit { self.listener.endpoint }.get()
    }

    func dial(
        _ endpoint: Endpoint, hello: Hello = client, settings: LinkSettings = LinkSettings(),
        expecting role: CertificateRole = .coordinator
    ) async throws -> Recorder {
        let recorder = Recorder()
        try await loop.submit {
            Dialer(eventLoop: self.loop, settings: settings.patient)
                .dial(endpoint, expecting: role, hello: hello, delegate: recorder) { recorder.failed($0) }
        }.get()
        return recorder
    }

    /// Does something to a side's link on the loop.
    func on<Value: Sendable>(
        _ recorder: Recorder, _ index: Int = 0, _ body: @escaping @Sendable (Link) throws -> Value
    ) async throws -> Value {
        try await loop.submit { try body(recorder.links[index]) }.get()
    }

    func refused() async throws -> RefusedConnections { try await loop.submit { self.listener.refused }.get() }

    func stop() async throws {
        try await loop.submit { self.listener.stop() }.get()
        try await group.shutdownGracefully()
    }

    static let client = Hello(role: .client, fingerprint: nil)
}

/// Runs a test with a listener, and stops it whatever happens.
func withStation(
    _ endpoint: Endpoint, settings: LinkSettings = LinkSettings(), recorder: Recorder = Recorder(),
    _ body: (Station, Endpoint) async throws -> Void
) async throws {
    let station = Station(endpoint, settings: settings, recorder: recorder)
    do {
        try await body(station, try await station.start())
    } catch {
        try await station.stop()
        throw error
    }
    try await station.stop()
}

func frame(_ number: UInt64, _ payload: ByteBuffer = ByteBuffer()) -> Frame {
    Frame(
        epoch: Epoch(1), tag: Tag(client: ClientID(1), number: number), sender: nil,
        message: .query(
            QuerySlice(
                tokens: 1, heads: 1, keyDim: payload.readableBytes / 4, dataType: .float32, queries: payload)))
}

/// Testing has another type of this name.
typealias Tag = DCPWire.Tag
