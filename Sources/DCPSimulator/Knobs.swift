// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPOracle
internal import DCPStore
internal import DCPTransport

/// What one seed's cluster is and what happens to it, drawn before anything runs.
struct Knobs {
    var shape: ClusterShape
    var model: ModelDescription
    var durability: Durability
    var network: NetworkKnobs
    var lease: Duration
    var stepTimeout: Duration
    var requestTimeout: Duration
    var threads: Int
    var clients: Int
    /// Script entries each client completes.
    var stepsPerClient: Int
    /// Whether the cluster is restored at the end from the last backup that was taken.
    var isRestored: Bool
    /// How often a client drops its connections, with what is on its way, and begins again as another.
    var clientCrashes: Double
    var stepsInFlightMax: Int
    var earlyByteCountMax: Int
    var faults: FaultKnobs
    /// The longest a disk takes for a transaction.
    var diskLatencyMax: Duration
    /// Writes that may wait for a rank's store; with few, a join owes more operations than that.
    var queueDepthMax: Int
    /// No store finds free pages side by side until the faults are over, beside what `scatteredRoom` does.
    var isRoomScattered: Bool
    /// Operations on their way to one rank; as many as fit in its queue, or more.
    var operationWindow: Int
    /// Blocks' worth of uncommitted tokens that fit in a rank's RAM, half of which is spilled; nil for many.
    var uncommittedBlocks: Int?
    /// What a turn of a rank's event loop may compute itself; with zero all is the threads', at any time after.
    var loopWorkMax: Duration
    /// How long unused sequences stay in RAM, and whether memory is only enough for those in use.
    var memoryIdle: Duration
    var isMemoryShort: Bool
    /// Sequences that a join reports, compares and transfers together: all, or a piece at a time.
    var joinPieceCount: Int
    /// Of the memory that ranks share; nil has all payloads go with their frames.
    var sharedMemory: MemorySettings?

    init(seed: UInt64, steps: Int) throws(ServiceError) {
        var random = SeededGenerator(seed: seed ^ 0x6b6e_6f62)
        func pick<Value>(_ values: [Value]) -> Value { Self.pick(values, &random) }
        let headGroups = pick([1, 1, 1, 2])
        let contextRanks = headGroups == 2 ? pick([1, 2]) : pick([1, 2, 2, 3, 4])
        let interleave = pick([1, 1, 2, 4, 16])
        shape = try ClusterShape(
            ranks: headGroups * contextRanks, headGroups: headGroups, interleave: interleave,
            blockTokens: pick([16, 16, 32]), exchange: pick([.allToAll, .allToAll, .allGatherReduceScatter]))
        model = try Self.model(of: shape, &random)
        durability = pick([.always, .everysec, .everysec, .never])
        let isFast = pick([true, false])
        network = NetworkKnobs(
            latency: .microseconds(20)...(isFast ? .microseconds(400) : .milliseconds(pick([2, 20, 80]))),
            loss: pick([0, 0.002, 0.03, 0.15]), splits: pick([0, 0.05, 0.4]), resets: pick([0, 0.3, 1]),
            flips: pick([0, 0, 0.001]), socketBufferByteCount: pick([4096, 1 << 16, 1 << 20]))
        lease = .milliseconds(pick([900, 1500, 3000]))
        stepTimeout = .milliseconds(pick([400, 1500, 4000]))
        requestTimeout = .milliseconds(pick([1500, 4000]))
        threads = pick([1, 2, 3])
        clients = pick([1, 1, 2, 3])
        stepsPerClient = max(1, steps / clients)
        clientCrashes = pick([0.01, 0.03, 0.25])
        stepsInFlightMax = pick([3, 1024, 1024])
        earlyByteCountMax = pick([600, 1 << 20, 1 << 20])
        faults = FaultKnobs(random: &random)
        diskLatencyMax = .milliseconds(pick([1, 5, 60]))
        queueDepthMax = pick([1024, 1024, 1, 2, 4])
        operationWindow = pick([queueDepthMax, 256])
        isRoomScattered = pick([true, false, false, false])
        uncommittedBlocks = pick([nil, nil, 4, 12, 40])
        loopWorkMax = .microseconds(pick([0, 15, 40, 600]))
        isRestored = pick([true, true, false])
        memoryIdle = .seconds(pick([1, 2, 60]))
        isMemoryShort = pick([true, false])
        joinPieceCount = pick([8192, 1, 2])
        sharedMemory = pick([
            nil, MemorySettings(ringByteCount: 4096, payloadByteCountMin: 1),
            MemorySettings(ringByteCount: 1 << 16, payloadByteCountMin: pick([1, 256])),
        ])
    }

    /// Whether no rank loses what it has answered.
    var keepsAcknowledged: Bool {
        durability == .always || !faults.rates.contains { [.powerLoss, .failedSync].contains($0.kind) && $0.rate > 0 }
    }
}

struct NetworkKnobs {
    /// One way, between two processes.
    var latency: ClosedRange<Duration>
    /// How often a segment is sent again, which delays it and all behind it.
    var loss: Double
    /// How often a write arrives in two pieces.
    var splits: Double
    /// How often a closed connection loses what was on its way.
    var resets: Double
    /// How often a bit of a write flips.
    var flips: Double
    var socketBufferByteCount: Int
}

/// How often each fault happens, in events a simulated second; 0 leaves it out.
struct FaultKnobs {
    enum Kind: CaseIterable {
        case kill, powerLoss, stop, pause, partition, halfPartition, reset, slow, bitFlip, killCoordinator, fullDisk,
            tornPage, failedSync, twin, restored, scatteredRoom, lostState, olderState, restoredState, backup
    }

    var rates: [(kind: Kind, rate: Double)]

    init(random: inout SeededGenerator) {
        // A third of the seeds has every fault, a third some, a third few: a bug may need quiet beside its fault.
        let share = [1.0, 0.5, 0.15].randomElement(using: &random)!
        let pace = [0.05, 0.15, 0.4].randomElement(using: &random)!
        rates = Kind.allCases.map { kind in
            let isIn = Double.random(in: 0..<1, using: &random) < share
            return (kind, isIn ? pace * Double.random(in: 0.3...1, using: &random) : 0)
        }
    }
}
