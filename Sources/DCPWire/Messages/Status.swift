// SPDX-License-Identifier: Apache-2.0

public import DCPCore

/// A sequence and a global length.
public struct SequenceLength: Hashable, Sendable {
    public var sequence: SequenceID
    public var length: Int
    /// The sender's claim on the sequence. `Cluster` fills it in.
    public var claim: Claim

    public init(sequence: SequenceID, length: Int, claim: Claim = .none) {
        self.sequence = sequence
        self.length = length
        self.claim = claim
    }

    static let byteCount = 24

    package init(from reader: inout WireReader) throws(ServiceError) {
        sequence = SequenceID(try reader.read("sequence"))
        length = try reader.readLength("length")
        claim = Claim(try reader.read("claim"))
    }

    package func encode(to writer: inout WireWriter) {
        writer.write(sequence.value)
        writer.write(UInt64(length))
        writer.write(claim.value)
    }
}

/// One rank's view of a sequence. All lengths are global.
public struct SequenceStatus: Hashable, Sendable {
    public var sequence: SequenceID
    public var committedLength: Int
    /// Per layer, its tokens, committed or not.
    public var layerLengths: [Int]
    /// Committed tokens that this rank owns.
    public var localTokens: Int
    /// The latest claim that the rank knows, of any epoch; after a restart, that of the last commit.
    public var claim: Claim
    /// The part of the committed length that can be served: less if stored data is damaged.
    public var intactLength: Int
    /// Number of committed tokens with ids: all or none; also none if the rank cannot read them.
    public var tokenIDs: Int

    public init(
        sequence: SequenceID, committedLength: Int, layerLengths: [Int], localTokens: Int, claim: Claim = .none,
        intactLength: Int? = nil, tokenIDs: Int = 0
    ) {
        self.sequence = sequence
        self.committedLength = committedLength
        self.layerLengths = layerLengths
        self.localTokens = localTokens
        self.claim = claim
        self.intactLength = intactLength ?? committedLength
        self.tokenIDs = tokenIDs
    }

    static let byteCountMin = 52

    package init(from reader: inout WireReader) throws(ServiceError) {
        sequence = SequenceID(try reader.read("sequence"))
        committedLength = try reader.readLength("committed length")
        localTokens = try reader.readLength("local tokens")
        claim = Claim(try reader.read("claim"))
        intactLength = try reader.readLength("intact length")
        tokenIDs = try reader.readLength("token ids")
        layerLengths = try reader.readArray("layer lengths", byteCountMin: 8) {
            r throws(ServiceError) in try r.readLength("layer length")
        }
    }

    package func encode(to writer: inout WireWriter) {
        writer.write(sequence.value)
        writer.write(UInt64(committedLength))
        writer.write(UInt64(localTokens))
        writer.write(claim.value)
        writer.write(UInt64(intactLength))
        writer.write(UInt64(tokenIDs))
        writer.write(layerLengths) { $0.write(UInt64($1)) }
    }
}

/// One rank's counters, for `dcpctl ranks` and `dcpctl status`.
public struct RankStatus: Hashable, Sendable {
    public var rank: RankIndex
    public var processID: UInt32
    public var store: StoreID
    public var threads: UInt32
    public var kernels: String
    public var sequences: UInt64
    /// Committed tokens in this rank's shards, over all sequences.
    public var tokens: UInt64
    public var sealedBlocks: UInt64
    /// Of these, blocks stored in pieces.
    public var piecedBlocks: UInt64 = 0
    /// Bytes of RAM in open blocks, uncommitted ones included.
    public var openBlockByteCount: UInt64
    /// Of tokens in RAM.
    public var uncommittedByteCount: UInt64
    /// From half of this on full blocks are spilled to the store.
    public var uncommittedByteCountMax: UInt64 = 0
    /// Spilled bytes of uncommitted tokens.
    public var spilledByteCount: UInt64 = 0
    /// Bytes of the store in use.
    public var storeByteCount: UInt64
    public var mapByteCountMax: UInt64
    public var stepsInFlight: UInt64
    public var stepsCompleted: UInt64
    public var stepsAborted: UInt64
    public var framesRefused: UInt64
    public var receiveByteCount: UInt64
    public var sendByteCount: UInt64
    /// Tokens of completed steps, counted at the first layer.
    public var stepTokens: UInt64
    /// Successful commits, and their total duration.
    public var commits: UInt64
    public var commitNanoseconds: UInt64
    /// Connected other ranks of the head group.
    public var peersConnected: UInt64
    /// Of these, ranks with shared memory.
    public var peersSharingMemory: UInt64 = 0
    /// Summed over the completed steps.
    public var stepTimes: StepTimes
    public var room: StoreRoom
    /// Some of the sequences with uncommitted tokens, the largest first.
    public var holders: [Holder] = []

    /// A sequence with uncommitted tokens on the rank.
    public struct Holder: Hashable, Sendable {
        public var sequence: SequenceID
        public var byteCount: UInt64
        /// Of these, spilled bytes.
        public var spilledByteCount: UInt64

        public init(sequence: SequenceID, byteCount: UInt64, spilledByteCount: UInt64) {
            self.sequence = sequence
            self.byteCount = byteCount
            self.spilledByteCount = spilledByteCount
        }
    }

    public init(
        rank: RankIndex, processID: UInt32, store: StoreID, threads: UInt32, kernels: String, sequences: UInt64,
        tokens: UInt64, sealedBlocks: UInt64, openBlockByteCount: UInt64, uncommittedByteCount: UInt64,
        storeByteCount: UInt64, mapByteCountMax: UInt64, stepsInFlight: UInt64, stepsCompleted: UInt64,
        stepsAborted: UInt64, framesRefused: UInt64, receiveByteCount: UInt64, sendByteCount: UInt64,
        stepTokens: UInt64, commits: UInt64, commitNanoseconds: UInt64, peersConnected: UInt64, stepTimes: StepTimes,
        room: StoreRoom
    ) {
        self.rank = rank
        self.processID = processID
        self.store = store
        self.threads = threads
        self.kernels = kernels
        self.sequences = sequences
        self.tokens = tokens
        self.sealedBlocks = sealedBlocks
        self.openBlockByteCount = openBlockByteCount
        self.uncommittedByteCount = uncommittedByteCount
        self.storeByteCount = storeByteCount
        self.mapByteCountMax = mapByteCountMax
        self.stepsInFlight = stepsInFlight
        self.stepsCompleted = stepsCompleted
        self.stepsAborted = stepsAborted
        self.framesRefused = framesRefused
        self.receiveByteCount = receiveByteCount
        self.sendByteCount = sendByteCount
        self.stepTokens = stepTokens
        self.commits = commits
        self.commitNanoseconds = commitNanoseconds
        self.peersConnected = peersConnected
        self.stepTimes = stepTimes
        self.room = room
    }

    private static var counters: [WritableKeyPath<RankStatus, UInt64>] {
        [
            \.sequences, \.tokens, \.sealedBlocks, \.piecedBlocks, \.openBlockByteCount,
            \.uncommittedByteCount, \.uncommittedByteCountMax, \.spilledByteCount, \.storeByteCount, \.mapByteCountMax,
            \.stepsInFlight, \.stepsCompleted, \.stepsAborted, \.framesRefused,
            \.receiveByteCount, \.sendByteCount, \.stepTokens, \.commits, \.commitNanoseconds, \.peersConnected,
            \.peersSharingMemory,
        ]
    }

    package init(from reader: inout WireReader) throws(ServiceError) {
        self.init(
            rank: RankIndex(try reader.read("rank")), processID: try reader.read("process"),
            store: try StoreID(from: &reader),
            threads: try reader.read("threads"), kernels: try reader.readString("kernels"), sequences: 0, tokens: 0,
            sealedBlocks: 0, openBlockByteCount: 0, uncommittedByteCount: 0, storeByteCount: 0, mapByteCountMax: 0,
            stepsInFlight: 0, stepsCompleted: 0, stepsAborted: 0, framesRefused: 0, receiveByteCount: 0,
            sendByteCount: 0, stepTokens: 0, commits: 0, commitNanoseconds: 0, peersConnected: 0,
            stepTimes: StepTimes(),
            room: StoreRoom(
                durability: "", condition: .writable, refusal: "", fileByteCount: 0, highByteCount: 0, lowByteCount: 0,
                deletingByteCount: 0))
        for counter in Self.counters { self[keyPath: counter] = try reader.read("counter") }
        stepTimes = try StepTimes(from: &reader)
        room = try StoreRoom(from: &reader)
        holders = try reader.readArray("holders", byteCountMin: 24) { r throws(ServiceError) in
            Holder(
                sequence: SequenceID(try r.read("sequence")), byteCount: try r.read("bytes"),
                spilledByteCount: try r.read("spilled bytes"))
        }
    }

    package func encode(to writer: inout WireWriter) {
        writer.write(rank.value)
        writer.write(processID)
        store.encode(to: &writer)
        writer.write(threads)
        writer.write(kernels)
        for counter in Self.counters { writer.write(self[keyPath: counter]) }
        stepTimes.encode(to: &writer)
        room.encode(to: &writer)
        writer.write(holders) {
            $0.write($1.sequence.value)
            $0.write($1.byteCount)
            $0.write($1.spilledByteCount)
        }
    }
}
