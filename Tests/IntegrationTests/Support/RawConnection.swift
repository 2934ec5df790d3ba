// SPDX-License-Identifier: Apache-2.0

import DCPClient
import DCPCore
import DCPLocalCluster
import DCPTestKit
import DCPTransport
import DCPWire
import Glibc
import NIOCore

/// A socket to a daemon with nothing between the test and the bytes. Blocking; confined to one thread.
final class RawConnection {
    enum Failure: Error {
        case system(String, Int32)
        case ended
    }

    private let descriptor: Int32
    private var received = ByteBuffer()
    private var decoder = FrameDecoder(limits: FrameLimits())

    /// - Parameters:
    ///   - address: which of the machine's IPv4 addresses it comes from.
    ///   - limit: a daemon that neither answers nor closes fails the test instead of holding it for ever.
    init(
        _ endpoint: String, from source: String? = nil, receiveTimeout limit: timeval = timeval(tv_sec: 60, tv_usec: 0)
    ) throws {
        switch try Endpoint(endpoint) {
        case .unix(let path):
            descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
            var address = sockaddr_un()
            address.sun_family = sa_family_t(AF_UNIX)
            withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8) }
            try Self.connect(descriptor, &address, MemoryLayout<sockaddr_un>.size)
        case .tcp(let host, let port):
            descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
            if let source { try Self.bind(descriptor, to: source) }
            var address = sockaddr_in()
            address.sin_family = sa_family_t(AF_INET)
            address.sin_port = in_port_t(port).bigEndian
            inet_pton(AF_INET, host, &address.sin_addr)
            try Self.connect(descriptor, &address, MemoryLayout<sockaddr_in>.size)
        }
        var limit = limit
        setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
    }

    deinit { close(descriptor) }

    private static func bind(_ descriptor: Int32, to source: String) throws {
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        inet_pton(AF_INET, source, &address.sin_addr)
        let result = withUnsafeMutablePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                Glibc.bind(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        guard result == 0 else { throw Failure.system("bind", errno) }
    }

    private static func connect<Address>(_ descriptor: Int32, _ address: inout Address, _ size: Int) throws {
        let result = withUnsafeMutablePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { Glibc.connect(descriptor, $0, socklen_t(size)) }
        }
        guard result == 0 else { throw Failure.system("connect", errno) }
    }

    /// Connects and says hello as a client.
    static func client(_ endpoint: String) throws -> RawConnection {
        let connection = try RawConnection(endpoint)
        let hello = Message.hello(Hello(role: .client, fingerprint: nil))
        try connection.send(hello, epoch: .none, tag: Tag(client: ClientID(0), number: 0))
        guard case .welcome? = try connection.receive()?.message else { throw Failure.ended }
        return connection
    }

    func send(_ message: Message, epoch: Epoch, tag: Tag) throws {
        guard send(RawConnection.bytes(Frame(epoch: epoch, tag: tag, message: message))) else {
            throw Failure.system("send", errno)
        }
    }

    /// Asks a coordinator; the next answer, whatever it answers.
    func ask(_ request: Message, number: UInt64) throws -> Message {
        try send(request, epoch: .none, tag: Tag(client: ClientID(5), number: number))
        guard let frame = try receive() else { throw Failure.ended }
        return frame.message
    }

    /// Claims a sequence.
    func claim(_ sequence: SequenceHandle, number: UInt64) throws -> Claim {
        let answer = try ask(.item(ClaimSequence(sequence.record.id, held: .none)), number: number)
        guard let claim = answer.answer(to: ClaimSequence.self) else { throw Failure.ended }
        return claim
    }

    static func bytes(_ frame: Frame) -> [UInt8] {
        frame.encode().flatMap(\.readableBytesView)
    }

    /// Returns false when the peer has closed already.
    @discardableResult
    func send(_ bytes: [UInt8]) -> Bool {
        var rest = bytes[...]
        while !rest.isEmpty {
            let count = rest.withUnsafeBytes {
                Glibc.send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL))
            }
            guard count > 0 else { return false }
            rest = rest.dropFirst(count)
        }
        return true
    }

    /// The next frame; nil when the peer has closed.
    func receive() throws -> Frame? {
        while true {
            if let frame = try decoder.next(from: &received) { return frame }
            guard let bytes = read() else { return nil }
            received.writeBytes(bytes)
        }
    }

    /// Whether bytes are left that make no whole frame.
    var hasPartOfFrame: Bool { received.readableBytes > 0 }

    /// Whether the peer has closed, or reset, the connection. Reads for up to the receive timeout; with bytes that have come
    /// they are lost.
    func isClosedByPeer() -> Bool {
        var byte: UInt8 = 0
        let count = recv(descriptor, &byte, 1, 0)
        return count == 0 || count < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR
    }

    /// Tells the peer that nothing more is sent.
    func finishSending() { shutdown(descriptor, Int32(SHUT_WR)) }

    private func read() -> [UInt8]? {
        var bytes = [UInt8](repeating: 0, count: 1 << 16)
        let count = recv(descriptor, &bytes, bytes.count, 0)
        return count > 0 ? Array(bytes.prefix(count)) : nil
    }
}

/// Step messages as a client makes them, one for each rank.
struct RawSteps: Sendable {
    let topology: Topology
    var claims: [SequenceID: Claim] = [:]
    let client = ClientID.random()

    init(topology: Topology) { self.topology = topology }

    /// Takes sequences over.
    init(topology: Topology, claiming sequences: SequenceHandle..., in cluster: TestCluster) throws {
        self.topology = topology
        let coordinator = try RawConnection.client(cluster.local.coordinatorEndpoint)
        for (index, sequence) in sequences.enumerated() {
            claims[sequence.record.id] = try coordinator.claim(sequence, number: UInt64(index + 1))
        }
    }

    /// A claimed sequence and a length of it, for a commit or a rewind.
    func length(_ length: Int, of sequence: SequenceHandle) -> SequenceLength {
        SequenceLength(sequence: sequence.record.id, length: length, claim: claims[sequence.record.id] ?? .none)
    }

    func tag(_ number: UInt64, layer: Int = 0) -> Tag { Tag(client: client, number: number, layer: UInt32(layer)) }

    func message(
        _ trace: Trace, _ range: Range<Int>, layer: Int = 0, to rank: RankIndex, on sequence: SequenceHandle,
        queryMode: StepRequest.QueryMode = .replicate, appends: Bool = true
    ) -> Message {
        .step(request(trace, range, layer: layer, to: rank, on: sequence, queryMode: queryMode, appends: appends))
    }

    func request(
        _ trace: Trace, _ range: Range<Int>, layer: Int = 0, to rank: RankIndex, on sequence: SequenceHandle,
        queryMode: StepRequest.QueryMode = .replicate, appends: Bool = true
    ) -> StepRequest {
        let kind = trace.shape[layer]
        let partition = topology.shape.partition(of: kind)
        let group = topology.shape.headGroup(of: rank)
        func rows(_ rows: [Float], _ heads: Int, _ slice: Range<Int>, _ dim: Int) -> [UInt8] {
            let part = Array(rows[range.lowerBound * heads * dim..<range.upperBound * heads * dim])
            let turned = RowOrder.headMajor(part, tokens: range.count, heads: heads, dim: dim)
            let own = Array(turned[slice.lowerBound * range.count * dim..<slice.upperBound * range.count * dim])
            return Rounding.bytes(own, as: .float32)
        }
        let own = partition.ownHeads(ofRank: topology.shape.contextRank(of: rank))
        let heads = queryMode == .gather ? own : 0..<partition.queryHeads
        let first = group * partition.queryHeads
        let queryHeads = first + heads.lowerBound..<first + heads.upperBound
        let kvHeads = group * partition.kvHeads..<(group + 1) * partition.kvHeads
        let brought = trace.layers[layer]
        return StepRequest(
            model: sequence.model.id, queryMode: queryMode, appends: appends, wantsLSE: true,
            timeoutMilliseconds: 60_000,
            entries: [
                StepRequest.Entry(
                    sequence: sequence.record.id, position: range.lowerBound, count: range.count,
                    claim: claims[sequence.record.id] ?? .none)
            ], queryDataType: .float32,
            keyValueDataType: .float32, queryHeads: queryHeads.count, kvHeads: kvHeads.count,
            keyDim: kind.keyDim, valueDim: kind.ownValueDim, keyValueTokens: appends ? range.count : 0,
            tensors: ByteBuffer(
                bytes: rows(brought.queries, kind.queryHeads, queryHeads, kind.keyDim)
                    + (appends ? rows(brought.keys, kind.kvHeads, kvHeads, kind.keyDim) : [])
                    + (appends ? rows(brought.values, kind.kvHeads, kvHeads, kind.ownValueDim) : [])))
    }

    /// The answer of all heads from the ranks' results, in rank order.
    static func answer(_ results: [StepResult], _ shape: ModelDescription, layer: Int = 0) -> Answer {
        let kind = shape[layer]
        let tokens = results[0].tokens
        func floats(_ buffer: ByteBuffer) -> [Float] {
            let bytes = Array(buffer.readableBytesView)
            return bytes.withUnsafeBytes { bytes in
                (0..<bytes.count / 4).map { bytes.loadUnaligned(fromByteOffset: $0 * 4, as: Float.self) }
            }
        }
        return Answer(
            outputs: RowOrder.tokenMajor(
                results.flatMap { floats($0.outputs) }, tokens: tokens, heads: kind.queryHeads, dim: kind.valueDim),
            lse: RowOrder.tokenMajor(
                results.flatMap { $0.lse.map(floats) ?? [] }, tokens: tokens, heads: kind.queryHeads, dim: 1))
    }
}

/// Sends all steps of a trace's layer to every rank before it reads the first answer.
struct Pipeline: Sendable {
    private let cluster: TestCluster

    init(_ cluster: TestCluster) { self.cluster = cluster }

    func send(_ trace: Trace, layer: Int = 0, stepTokens: Int, on sequence: SequenceHandle) async throws -> Answer {
        let starts = stride(from: 0, to: trace.tokens, by: stepTokens)
        let answers = try await send(
            trace, layer: layer, starts.map { ($0..<$0 + stepTokens, appends: true) }, on: sequence)
        return Answer(joining: answers)
    }

    /// - Parameter sent: the tokens of each step, and whether it brings them or asks about them alone.
    func send(
        _ trace: Trace, layer: Int, _ sent: [(range: Range<Int>, appends: Bool)], on sequence: SequenceHandle
    ) async throws -> [Answer] {
        let topology = try await cluster.withClient { try await $0.readyTopology() }
        let endpoints = cluster.local.rankEndpoints
        return try await onOwnThread {
            let steps = try RawSteps(topology: topology, claiming: sequence, in: cluster)
            let ranks = topology.shape.allRanks
            let connections = try endpoints.map { try RawConnection.client($0) }
            for (number, step) in sent.enumerated() {
                for (rank, connection) in zip(ranks, connections) {
                    let message = steps.message(
                        trace, step.range, layer: layer, to: rank, on: sequence, appends: step.appends)
                    let tag = steps.tag(UInt64(number + 1), layer: layer)
                    try connection.send(message, epoch: topology.epoch, tag: tag)
                }
            }
            var results: [[UInt64: StepResult]] = []
            for connection in connections {
                var own: [UInt64: StepResult] = [:]
                while own.count < sent.count, let frame = try connection.receive() {
                    guard let result = frame.message.stepResult else { throw RawConnection.Failure.ended }
                    own[frame.tag.number] = result
                }
                results.append(own)
            }
            return (1...UInt64(sent.count)).map { number in
                RawSteps.answer(results.compactMap { $0[number] }, trace.shape, layer: layer)
            }
        }
    }
}
