// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import DCPClient
import DCPConsole
import DCPCore
import DCPWire

struct Status: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Show the cluster: whether it is ready, its shape, its ranks.",
        discussion: """
            EXAMPLE
              dcpctl status
              dcpctl status --json | jq .phase
            """)

    @OptionGroup var client: ClientOptions

    func run() async throws {
        try await client.execute { cluster in
            let topology = try await cluster.topology()
            var view = StatusView(topology, sequences: try await cluster.sequenceCount())
            let note: String
            switch await counters(cluster) {
            case .success(let statuses): (view.ranks, note) = (RankView.views(topology, statuses), "")
            case .failure(let error): note = "\n\nCounters are missing: \(error.message)"
            }
            try client.output.print(view) { view.text + note }
        }
    }

    /// A rank that is counted as present may die at this moment: the status is then shown without counters.
    private func counters(_ cluster: Cluster) async -> Result<[RankStatus], ServiceError> {
        do throws(ServiceError) {
            return .success(try await cluster.rankStatuses())
        } catch {
            return .failure(error)
        }
    }
}

struct Ranks: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Show every rank's counters.",
        discussion: """
            EXAMPLE
              dcpctl ranks
            """)

    @OptionGroup var client: ClientOptions

    func run() async throws {
        try await client.execute { cluster in
            let topology = try await cluster.topology()
            let views = RankView.views(topology, try await cluster.rankStatuses())
            try client.output.print(views) {
                [RankView.counters(views), RankView.stores(views), RankView.meanStep(views)].joined(separator: "\n\n")
                    + RankView.holders(views)
                    + RankView.refusal(views)
            }
        }
    }
}

struct StatusView: Encodable {
    var phase: String
    var reason: String
    var epoch: UInt64
    var headGroups: Int
    var contextRanks: Int
    var interleave: Int
    var blockTokens: Int
    var exchange: String
    var leaseSeconds: Double
    /// In the directory.
    var sequences: Int
    var ranks: [RankView]

    init(_ topology: Topology, sequences: Int) {
        self.sequences = sequences
        phase = Self.name(of: topology.phase)
        reason = topology.reason
        epoch = topology.epoch.value
        headGroups = topology.shape.headGroups
        contextRanks = topology.shape.contextRanks
        interleave = topology.shape.layout.interleave
        blockTokens = topology.shape.layout.blockTokens
        exchange = topology.shape.exchange.name
        leaseSeconds = Double(topology.leaseMilliseconds) / 1000
        ranks = RankView.views(topology, [])
    }

    static func name(of phase: Topology.Phase) -> String {
        switch phase {
        case .incomplete: "incomplete"
        case .joining: "joining"
        case .ready: "ready"
        }
    }

    var text: String {
        let state = phase == "ready" ? "ready" : "not ready: \(reason)"
        return """
            Cluster \(state)
            Epoch \(epoch), \(ranks.count) ranks = \(headGroups) head groups x \(contextRanks) context ranks, \
            interleave \(interleave), \(blockTokens) tokens per block, exchange \(exchange)
            Sequences \(sequences)

            \(RankView.overview(ranks))\(RankView.refusal(ranks))
            """
    }
}

struct RankView: Encodable {
    var rank: Int
    var state: String
    var endpoint: String
    var counters: Counters?

    struct Counters: Encodable {
        var processId: UInt32
        var store: String
        var threads: UInt32
        var kernels: String
        var sequences: UInt64
        var tokens: UInt64
        var sealedBlocks: UInt64
        var piecedBlocks: UInt64
        var openBlockBytes: UInt64
        /// In RAM, and spilled to the store.
        var uncommittedBytes: UInt64
        var spilledBytes: UInt64
        /// Some of the sequences that have them, the largest first.
        var uncommittedSequences: [HolderView]
        var storeBytes: UInt64
        var mapBytesMax: UInt64
        var stepsInFlight: UInt64
        var stepsCompleted: UInt64
        var stepsAborted: UInt64
        var framesRefused: UInt64
        var receivedBytes: UInt64
        var sentBytes: UInt64
        /// Other ranks of the head group, and those of them with which memory is shared.
        var peersConnected: UInt64
        var peersSharingMemory: UInt64
        /// Sums over the completed steps.
        var stepMicroseconds: StepTimesView
        var durability: String
        /// `writable`, `full`, `refused` or `failed`.
        var storeCondition: String
        /// Why new tokens are refused; empty when they are taken.
        var refusal: String
        var fileBytes: UInt64
        var highWatermarkBytes: UInt64
        var lowWatermarkBytes: UInt64
        var deletingBytes: UInt64
    }

    static func views(_ topology: Topology, _ statuses: [RankStatus]) -> [RankView] {
        let byRank = Dictionary(statuses.map { ($0.rank, $0) }, uniquingKeysWith: { a, _ in a })
        return topology.members.map { member in
            RankView(
                rank: Int(member.rank.value), state: member.endpoint == nil ? "missing" : "present",
                endpoint: member.endpoint.map { "\($0)" } ?? "", counters: byRank[member.rank].map { Counters($0) })
        }
    }

    static func overview(_ views: [RankView]) -> String {
        var table = TextTable(
            "RANK", "STATE", "SEQUENCES", "TOKENS", "STORE", "DISK", "DURABILITY", "IN FLIGHT", "PEERS", "ENDPOINT")
        for view in views {
            table.append([
                "\(view.rank)", view.state, cell(view) { "\($0.sequences)" }, cell(view) { "\($0.tokens)" },
                cell(view) { ByteFormat.format(Int($0.storeBytes)) }, cell(view) { $0.storeCondition },
                cell(view) { $0.durability }, cell(view) { "\($0.stepsInFlight)" }, cell(view, peers),
                view.endpoint.isEmpty ? "-" : view.endpoint,
            ])
        }
        return table.rendered()
    }

    /// How tensors of steps go to the others of the head group.
    private static func peers(_ counters: Counters) -> String {
        let shared = counters.peersSharingMemory
        let ways = [(shared, "memory"), (counters.peersConnected - min(shared, counters.peersConnected), "frames")]
        let used = ways.filter { $0.0 > 0 }.map { "\($0.0) by \($0.1)" }
        return used.isEmpty ? "-" : used.joined(separator: ", ")
    }

    /// Why the cluster takes no new tokens, for a person; empty when it does.
    static func refusal(_ views: [RankView]) -> String {
        // Ranks that are well repeat what a full one said.
        let own = views.first { $0.counters?.storeCondition != "writable" && $0.counters?.refusal.isEmpty == false }
        guard let refusal = own?.counters?.refusal else { return "" }
        return "\n\nNo new tokens: \(refusal)"
    }

    /// How each rank keeps its store, and how full it is.
    static func stores(_ views: [RankView]) -> String {
        var table = TextTable("RANK", "DURABILITY", "DISK", "IN USE", "FILE", "HIGH", "LOW", "LIMIT", "DELETING")
        for view in views {
            let sizes: [(Counters) -> UInt64] = [
                \.storeBytes, \.fileBytes, \.highWatermarkBytes, \.lowWatermarkBytes, \.mapBytesMax, \.deletingBytes,
            ]
            table.append(
                ["\(view.rank)", cell(view) { $0.durability }, cell(view) { $0.storeCondition }]
                    + sizes.map { size in cell(view) { ByteFormat.format(Int(clamping: size($0))) } })
        }
        return table.rendered()
    }

    static func counters(_ views: [RankView]) -> String {
        var table = TextTable(
            "RANK", "STATE", "PID", "THREADS", "STEPS", "ABORTED", "REFUSED", "BLOCKS", "IN PIECES", "OPEN RAM",
            "UNCOMMITTED", "SPILLED", "STORE", "RECEIVED", "SENT")
        for view in views {
            table.append([
                "\(view.rank)", view.state, cell(view) { "\($0.processId)" }, cell(view) { "\($0.threads)" },
                cell(view) { "\($0.stepsCompleted)" }, cell(view) { "\($0.stepsAborted)" },
                cell(view) { "\($0.framesRefused)" }, cell(view) { "\($0.sealedBlocks)" },
                cell(view) { "\($0.piecedBlocks)" },
                cell(view) { ByteFormat.format(Int($0.openBlockBytes)) },
                cell(view) { ByteFormat.format(Int($0.uncommittedBytes)) },
                cell(view) { ByteFormat.format(Int($0.spilledBytes)) },
                cell(view) { ByteFormat.format(Int($0.storeBytes)) },
                cell(view) { ByteFormat.format(Int($0.receivedBytes)) },
                cell(view) { ByteFormat.format(Int($0.sentBytes)) },
            ])
        }
        return table.rendered()
    }

    /// The sequences with uncommitted tokens on each rank, as text; empty if there are none.
    static func holders(_ views: [RankView]) -> String {
        var table = TextTable("RANK", "UNCOMMITTED OF", "BYTES", "SPILLED")
        var isEmpty = true
        for view in views {
            for holder in view.counters?.uncommittedSequences ?? [] {
                isEmpty = false
                table.append([
                    "\(view.rank)", "\(SequenceID(holder.id))", ByteFormat.format(Int(clamping: holder.bytes)),
                    ByteFormat.format(Int(clamping: holder.spilledBytes)),
                ])
            }
        }
        return isEmpty ? "" : "\n\n" + table.rendered()
    }

    /// Where the completed steps' time went, on average. The parts run side by side and need not add up.
    static func meanStep(_ views: [RankView]) -> String {
        let parts: [(String, KeyPath<StepTimesView, Double>)] = [
            ("MEAN STEP", \.total), ("NEW TOKENS", \.newTokens), ("CONTEXT", \.context), ("KERNELS", \.kernels),
            ("QUERY WAIT", \.queryWait), ("PARTIAL WAIT", \.partialWait), ("MERGE", \.merge), ("OTHER", \.other),
        ]
        var table = TextTable([TextTable.Column("RANK")] + parts.map { TextTable.Column($0.0) })
        for view in views {
            table.append(
                ["\(view.rank)"]
                    + parts.map { part in
                        guard let counters = view.counters, counters.stepsCompleted > 0 else { return "-" }
                        let mean = counters.stepMicroseconds[keyPath: part.1] / Double(counters.stepsCompleted)
                        return DurationFormat.latency(.microseconds(mean))
                    })
        }
        return table.rendered()
    }

    private static func cell(_ view: RankView, _ text: (Counters) -> String) -> String {
        view.counters.map(text) ?? "-"
    }
}

struct HolderView: Encodable {
    var id: UInt64
    var bytes: UInt64
    var spilledBytes: UInt64
}

struct StepTimesView: Encodable {
    var total: Double
    var newTokens: Double
    var context: Double
    var kernels: Double
    var queryWait: Double
    var partialWait: Double
    var merge: Double
    var other: Double

    init(_ times: StepTimes) {
        func microseconds(_ nanoseconds: UInt64) -> Double { Double(nanoseconds) / 1000 }
        total = microseconds(times.total)
        newTokens = microseconds(times.newTokens)
        context = microseconds(times.context)
        kernels = microseconds(times.kernels)
        queryWait = microseconds(times.queryWait)
        partialWait = microseconds(times.partialWait)
        merge = microseconds(times.merge)
        other = microseconds(times.other)
    }
}

extension RankView.Counters {
    init(_ status: RankStatus) {
        processId = status.processID
        store = "\(status.store)"
        threads = status.threads
        kernels = status.kernels
        sequences = status.sequences
        tokens = status.tokens
        sealedBlocks = status.sealedBlocks
        piecedBlocks = status.piecedBlocks
        openBlockBytes = status.openBlockByteCount
        uncommittedBytes = status.uncommittedByteCount
        spilledBytes = status.spilledByteCount
        uncommittedSequences = status.holders.map {
            HolderView(id: $0.sequence.value, bytes: $0.byteCount, spilledBytes: $0.spilledByteCount)
        }
        storeBytes = status.storeByteCount
        mapBytesMax = status.mapByteCountMax
        stepsInFlight = status.stepsInFlight
        stepsCompleted = status.stepsCompleted
        stepsAborted = status.stepsAborted
        framesRefused = status.framesRefused
        receivedBytes = status.receiveByteCount
        sentBytes = status.sendByteCount
        peersConnected = status.peersConnected
        peersSharingMemory = status.peersSharingMemory
        stepMicroseconds = StepTimesView(status.stepTimes)
        durability = status.room.durability
        storeCondition = "\(status.room.condition)"
        refusal = status.room.refusal
        fileBytes = status.room.fileByteCount
        highWatermarkBytes = status.room.highByteCount
        lowWatermarkBytes = status.room.lowByteCount
        deletingBytes = status.room.deletingByteCount
    }
}
