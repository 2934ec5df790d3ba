// SPDX-License-Identifier: Apache-2.0

public import DCPCore
public import DCPTransport
public import DCPWire
internal import NIOCore
internal import NIOPosix

/// A client's connection to a DCP cluster: models, sequences, steps.
///
/// ```swift
/// let cluster = try await Cluster.connect(to: Endpoint("unix:/run/dcp/coordinator.sock"))
/// let model = try await cluster.registerModel("llama", shape)
/// let sequence = try await cluster.openSequence("chat-1", model: "llama")
/// let answer = try await cluster.step(
///     layer: 0, [sequence.entry(position: 0, count: 512)], model: model, queries: q, keys: k, values: v)
/// try await cluster.commit([SequenceLength(sequence: sequence.record.id, length: 512)])
/// ```
///
/// The client gets the topology from the coordinator once; steps then go directly to the ranks. After a change of the
/// membership a step fails with a retryable error, and the next call gets the new topology.
public actor Cluster {
    /// How long a request may take.
    public struct Timeouts: Sendable {
        /// For a step, from sending it to the last rank's answer. Given to the ranks as their deadline.
        public var step: Duration
        /// For anything else.
        public var request: Duration

        public init(step: Duration = .seconds(60), request: Duration = .seconds(30)) {
            self.step = step
            self.request = request
        }
    }

    public nonisolated let client = ClientID.random()
    public nonisolated let timeouts: Timeouts
    /// Whether to check numbers against their limits before sending; ranks check them in any case.
    private(set) var checksInputs = true
    /// For connections over TCP.
    private let tls: TLSCredentials?
    let eventLoop: any EventLoop
    private var coordinator: Connection
    private var known: Topology?
    private var ranks: [RankIndex: Connection] = [:]
    /// Connections being opened: concurrent callers that need the same one share it.
    private var opening: [RankIndex: Task<Result<Connection, ServiceError>, Never>] = [:]
    private var nextNumber: UInt64 = 1
    /// Of the sequences that this client has used; see `Cluster+Claims.swift`.
    var claims: [SequenceID: HeldClaim] = [:]
    /// Claims being requested: concurrent callers that need the same one share it.
    var claiming: [SequenceID: Task<Result<Claim, ServiceError>, Never>] = [:]

    private init(coordinator: Connection, tls: TLSCredentials?, eventLoop: any EventLoop, timeouts: Timeouts) {
        self.coordinator = coordinator
        self.tls = tls
        self.eventLoop = eventLoop
        self.timeouts = timeouts
    }

    /// Connects to a coordinator.
    /// - Parameter tls: this client's credentials for TCP; nil for Unix sockets, and for plain TCP on this machine.
    /// - Throws: `.unreachable` if no daemon listens there; `.accessDenied` if this client may not connect.
    public static func connect(
        to coordinator: Endpoint, tls: TLSCredentials? = nil, timeouts: Timeouts = Timeouts()
    ) async throws(ServiceError) -> Cluster {
        let eventLoop = MultiThreadedEventLoopGroup.singleton.next()
        let connection = try await Connection.open(
            coordinator, name: "the coordinator", tls: tls, timeout: timeouts.request, eventLoop: eventLoop)
        return Cluster(coordinator: connection, tls: tls, eventLoop: eventLoop, timeouts: timeouts)
    }

    /// Connects to a coordinator that may still be starting, and waits until its cluster is ready.
    ///
    /// Retries while no daemon listens. Ends soon after its task is cancelled.
    /// - Throws: `.notReady` with the coordinator's reason after `wait`.
    public static func connectWhenReady(
        to coordinator: Endpoint, wait: Duration, tls: TLSCredentials? = nil, timeouts: Timeouts = Timeouts()
    ) async throws(ServiceError) -> Cluster {
        let deadline = ContinuousClock.now + wait
        while true {
            do throws(ServiceError) {
                let cluster = try await connect(to: coordinator, tls: tls, timeouts: timeouts)
                do throws(ServiceError) {
                    try await cluster.waitUntilReady(until: deadline)
                    return cluster
                } catch {
                    await cluster.close()
                    throw error
                }
            } catch {
                guard error.code == .unreachable, ContinuousClock.now < deadline, !Task.isCancelled else { throw error }
            }
            // The pause between two attempts: there is no event for a new listener at an address.
            try? await Task.sleep(for: .milliseconds(20))
        }
    }

    private func waitUntilReady(until deadline: ContinuousClock.Instant) async throws(ServiceError) {
        let connection = coordinator
        let outcome = await withTaskCancellationHandler {
            () async -> Result<Topology, ServiceError> in
            do throws(ServiceError) {
                return .success(try await readyTopology(wait: max(.zero, deadline - .now)))
            } catch {
                return .failure(error)
            }
        } onCancel: {
            connection.close()
        }
        _ = try outcome.get()
    }

    /// Sends any request, for tests of the ranks' reaction.
    package func sendUnchecked() { checksInputs = false }

    public func close() {
        coordinator.close()
        for connection in ranks.values { connection.close() }
        ranks = [:]
    }

    // MARK: Topology

    /// The cluster's topology; waits up to `wait` for the cluster to become ready, and answers in any case.
    public func topology(wait: Duration = .zero) async throws(ServiceError) -> Topology {
        var left = wait
        while left > GetTopology.waitMax {
            let topology = try await fetchTopology(wait: GetTopology.waitMax)
            if topology.phase == .ready { return topology }
            left -= GetTopology.waitMax
        }
        return try await fetchTopology(wait: left)
    }

    private func fetchTopology(wait: Duration) async throws(ServiceError) -> Topology {
        let milliseconds = UInt32(clamping: Int(wait / .milliseconds(1)))
        let topology = try await ask(
            GetTopology(waitMilliseconds: milliseconds), timeout: wait + timeouts.request)
        for (rank, connection) in ranks where topology.endpoint(of: rank) != connection.endpoint {
            connection.close()
            ranks[rank] = nil
        }
        known = topology
        return topology
    }

    /// The topology of a ready cluster.
    /// - Throws: `.notReady`, with the coordinator's reason, which names the missing ranks.
    public func readyTopology(wait: Duration = .zero) async throws(ServiceError) -> Topology {
        if let known, known.phase == .ready { return known }
        let topology = try await topology(wait: wait)
        guard topology.phase == .ready else {
            throw ServiceError(.notReady, "The cluster is not ready: \(topology.reason). Try again when it is.")
        }
        return topology
    }

    /// After a failure that a change of the membership may explain, the next call fetches it again.
    func forgetTopology(after error: ServiceError) {
        if error.code.concernsMembership { known = nil }
    }

    /// A claim has the coordinator's epoch: if it differs from the known one, the membership has changed without a
    /// failure.
    func forgetTopology(unlessOf claim: Claim) {
        if let known, !claim.isOf(known.epoch) { self.known = nil }
    }

    // MARK: Requests

    func takeNumber() -> UInt64 {
        defer { nextNumber += 1 }
        return nextNumber
    }

    /// Asks the coordinator.
    package func ask<R: Request>(_ request: R, timeout: Duration? = nil) async throws(ServiceError) -> R.Reply {
        if !coordinator.isOpen {
            coordinator = try await Connection.open(
                coordinator.endpoint, name: "the coordinator", tls: tls, timeout: timeouts.request,
                eventLoop: eventLoop)
        }
        return try await coordinator.request(
            request, epoch: known?.epoch ?? .none, tag: Tag(client: client, number: takeNumber()),
            timeout: timeout ?? timeouts.request
        ).result()
    }

    /// Sends the coordinator a request with one or more items.
    /// - Returns: the answers in the order of `items`.
    package func ask<Item: RequestItem>(
        each items: [Item]
    ) async throws(ServiceError) -> [Result<Item.Answer, ServiceError>] {
        var answers: [Result<Item.Answer, ServiceError>] = []
        for start in stride(from: 0, to: items.count, by: Item.itemsMax) {
            let some = Array(items[start..<min(start + Item.itemsMax, items.count)])
            answers += try Self.checked(try await ask(Many(some)), count: some.count, from: "the coordinator")
        }
        return answers
    }

    /// Asks the coordinator for one thing.
    package func ask<Item: RequestItem>(one item: Item) async throws(ServiceError) -> Item.Answer {
        try await ask(each: [item])[0].get()
    }

    static func checked<Item: RequestItem>(
        _ reply: Many<Item>.Reply, count: Int, from peer: String
    ) throws(ServiceError) -> [Result<Item.Answer, ServiceError>] {
        guard reply.answers.count == count else {
            throw unexpected("\(reply.answers.count) answers to \(count) items", from: peer)
        }
        return reply.answers
    }

    /// Sends all ranks the same request.
    /// - Returns: the replies in the order of ranks.
    package func askRanks<R: Request>(_ request: R, topology: Topology) async throws(ServiceError) -> [R.Reply] {
        try await ask(
            topology.shape.allRanks.map { ($0, request) }, topology: topology,
            tag: Tag(client: client, number: takeNumber()), timeout: timeouts.request)
    }

    /// Asks one rank.
    package func ask<R: Request>(_ request: R, of rank: RankIndex, in topology: Topology) async throws(ServiceError)
        -> R.Reply
    {
        try await ask(
            [(rank, request)], topology: topology, tag: Tag(client: client, number: takeNumber()),
            timeout: timeouts.request)[0]
    }

    /// Sends requests to ranks concurrently; the first failure is the result.
    /// - Returns: the replies in the order of `requests`.
    package func ask<R: Request>(
        _ requests: [(rank: RankIndex, request: R)], topology: Topology, tag: Tag, timeout: Duration
    ) async throws(ServiceError) -> [R.Reply] {
        do throws(ServiceError) {
            var parts: [(connection: Connection, request: R)] = []
            for (rank, request) in requests { parts.append((try await connection(to: rank, in: topology), request)) }
            return try await Connection.ask(parts, epoch: topology.epoch, tag: tag, timeout: timeout)
        } catch {
            forgetTopology(after: error)
            throw explained(error, of: requests.map(\.request))
        }
    }

    func connection(to rank: RankIndex, in topology: Topology) async throws(ServiceError) -> Connection {
        if let shared = opening[rank] { return try await shared.value.get() }
        if let known = ranks[rank], known.isOpen { return known }
        guard let endpoint = topology.endpoint(of: rank) else {
            throw ServiceError(
                .rankUnavailable,
                "\(rank) is missing; start it: \(ServiceStart.of(rank, beside: coordinator.endpoint)).",
                rank: rank)
        }
        let (eventLoop, tls, timeout) = (eventLoop, tls, timeouts.request)
        let task = Task { () async -> Result<Connection, ServiceError> in
            do throws(ServiceError) {
                return .success(
                    try await Connection.open(
                        endpoint, name: "\(rank)", rank: rank, tls: tls, timeout: timeout, eventLoop: eventLoop))
            } catch {
                return .failure(error)
            }
        }
        opening[rank] = task
        let result = await task.value
        opening[rank] = nil
        if case .success(let connection) = result { ranks[rank] = connection }
        return try result.get()
    }

    /// - Parameter what: what it has answered with.
    package static func unexpected(_ what: String, from peer: String) -> ServiceError {
        ServiceError(
            .protocolViolation,
            "\(peer) answered with \(what), which does not answer the request; the peer has a bug or runs another "
                + "release."
        )
    }
}
