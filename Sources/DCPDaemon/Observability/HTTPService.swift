// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPObservability
internal import DCPTransport
internal import Foundation
internal import Glibc
internal import HTTPTypes
internal import Hummingbird
internal import HummingbirdCore
internal import Logging
internal import NIOCore
internal import NIOPosix
internal import ServiceLifecycle

/// A daemon's HTTP endpoint: `/metrics`, `/healthz`, `/readyz`.
///
/// It has its own thread and shares none with steps. It limits connections, header bytes and the time of a request, and
/// accepts only GET and HEAD.
struct HTTPService: Service {
    let address: HTTPAddress
    let observed: any Observed
    let log: DaemonLog

    /// With one more the connection that has been silent for longest is closed: an idle one must not keep a probe waiting.
    static let connectionsMax = 32
    /// A connection that sends no whole request head, or no next one, for so long is closed.
    static let idleTimeout = TimeAmount.seconds(30)
    /// However busy it is, a connection is closed after this; a scraper connects again.
    static let connectionTimeMax = TimeAmount.seconds(300)
    static let headerByteCountMax = 8192
    static let headersMax = 64

    /// Ends with the process: a connection that closes while the daemon stops still has work for it.
    private static let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)

    /// - Throws: `.invalidConfiguration` when it cannot listen there, `.unreachable` when it may later.
    func run() async throws {
        if case .unix(let path) = address, SocketFile.isInUse(at: path) {
            throw ServiceError(
                .unreachable,
                "Another daemon's HTTP endpoint listens at \(address); choose another --http address, or `--http off`.")
        }
        do {
            try await serve()
        } catch {
            guard !(error is CancellationError) else { return }
            throw ServiceError(
                NetworkFailure.code(ofListening: error),
                "The HTTP endpoint cannot listen at \(address) (\(NetworkFailure.reason(of: error))); choose another --http "
                    + "address, or `--http off`."
            )
        }
    }

    private func serve() async throws {
        let limits = HTTP1Channel.Configuration.DecoderConfiguration(
            maxHeaderFieldSize: Self.headerByteCountMax, maxHeaderListSize: Self.headerByteCountMax,
            maxHeaderFieldCount: Self.headersMax)
        let open = NIOLoopBoundBox.makeBoxSendingValue(OpenConnections(), eventLoop: Self.group.next())
        let channel = HTTP1Channel.Configuration(
            additionalChannelHandlers: [ConnectionDeadline(after: Self.connectionTimeMax, among: open)],
            idleTimeout: Self.idleTimeout, httpDecoderConfiguration: limits)
        // The library's own narration is not an operator's business; what fails is thrown.
        let quiet = Logger(label: "http") { _ in SwiftLogNoOpLogHandler() }
        let bind: BindAddress =
            switch address {
            case .unix(let path): .unixDomainSocket(path: path)
            case .tcp(let host, let port): .hostname(host, port: port)
            }
        let (observed, address, log) = (observed, address, log)
        let application = Application(
            responder: CallbackResponder<BasicRequestContext> { request, _ in
                await Self.respond(to: request, observed)
            },
            server: .http1(configuration: channel),
            configuration: ApplicationConfiguration(
                address: bind, serverName: nil, backlog: Self.connectionsMax,
                availableConnectionsDelegate: MaximumAvailableConnections(Self.connectionsMax + 1, logger: quiet)),
            onServerRunning: { channel in
                var place = "\(address)"
                switch address {
                // The directory's mode guards the instant before, as it does for the protocol's socket.
                case .unix(let path): chmod(path, 0o600)
                case .tcp(let host, _):
                    if let port = channel.localAddress?.port { place = "\(HTTPAddress.tcp(address: host, port: port))" }
                }
                log.logger.notice("HTTP endpoint listening", metadata: ["endpoint": "\(place)"])
            },
            eventLoopGroupProvider: .shared(Self.group), logger: quiet)
        try await application.run()
    }
}

extension HTTPService {
    static func respond(to request: Request, _ observed: any Observed) async -> Response {
        guard request.method == .get || request.method == .head else {
            return text(.methodNotAllowed, "Use GET.\n", [.allow: "GET, HEAD"])
        }
        let answer: Response
        switch request.uri.path {
        case "/metrics":
            answer = text(.ok, await observed.metrics().text, [.contentType: Exposition.contentType])
        case "/healthz": answer = verdict(await observed.health())
        case "/readyz": answer = verdict(await observed.readiness())
        default: answer = text(.notFound, "Available paths: /metrics, /healthz and /readyz.\n")
        }
        return request.method == .head ? answer.createHeadResponse() : answer
    }

    private static func verdict(_ verdict: HealthVerdict) -> Response {
        let encoder = JSONEncoder()
        encoder.keyEncodingStrategy = .convertToSnakeCase
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        guard let data = try? encoder.encode(verdict) else { return Response(status: .internalServerError) }
        return text(
            verdict.ok ? .ok : .serviceUnavailable, String(decoding: data, as: UTF8.self) + "\n",
            [.contentType: "application/json"])
    }

    private static func text(
        _ status: HTTPResponse.Status, _ body: String, _ headers: HTTPFields = [:]
    ) -> Response {
        var headers = headers
        if headers[.contentType] == nil { headers[.contentType] = "text/plain; charset=utf-8" }
        headers[.cacheControl] = "no-store"
        return Response(status: status, headers: headers, body: ResponseBody(byteBuffer: ByteBuffer(string: body)))
    }
}

/// The connections there are, with the time of the last bytes of each. Confined to the endpoint's loop.
private struct OpenConnections {
    private var all: [ObjectIdentifier: (channel: any Channel, lastRead: NIODeadline)] = [:]

    mutating func enter(_ channel: any Channel) {
        if all.count >= HTTPService.connectionsMax, let idlest = all.min(by: { $0.value.lastRead < $1.value.lastRead })
        {
            all[idlest.key] = nil
            idlest.value.channel.close(promise: nil)
        }
        touch(channel)
    }

    mutating func touch(_ channel: any Channel) { all[ObjectIdentifier(channel)] = (channel, channel.eventLoop.now) }
    mutating func leave(_ channel: any Channel) { all[ObjectIdentifier(channel)] = nil }
}

/// Closes a connection when its time is over, whatever it is doing, or when another needs its place.
private final class ConnectionDeadline: ChannelInboundHandler, RemovableChannelHandler {
    typealias InboundIn = Any
    private let time: TimeAmount
    private let open: NIOLoopBoundBox<OpenConnections>
    private var deadline: Scheduled<Void>?

    init(after time: TimeAmount, among open: NIOLoopBoundBox<OpenConnections>) {
        self.time = time
        self.open = open
    }

    func handlerAdded(context: ChannelHandlerContext) {
        let channel = context.channel
        deadline = context.eventLoop.scheduleTask(in: time) { channel.close(promise: nil) }
        open.value.enter(channel)
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        open.value.touch(context.channel)
        context.fireChannelRead(data)
    }

    func handlerRemoved(context: ChannelHandlerContext) {
        deadline?.cancel()
        open.value.leave(context.channel)
    }
}
