// SPDX-License-Identifier: Apache-2.0

public import DCPCore

/// A rank's registration with the coordinator, sent when it connects and again in each new epoch.
public struct Registration: Hashable, Sendable {
    public var rank: RankIndex
    public var store: StoreID
    /// The cluster of the store; none before its first join.
    public var cluster: ClusterID
    /// The address of this rank for other ranks and clients.
    public var endpoint: Endpoint
    /// The highest epoch the rank has persisted.
    public var epoch: Epoch
    public var models: [ModelRecord]
    /// The highest numbers of models and sequences that the store ever had.
    public var numbers: Numbers
    /// Uses of sequences that the rank has seen since its start: the rank with the most knows the order best.
    public var useCount: UInt64
    /// Drawn at each start of a rank: the same value on another connection means the same process.
    public var incarnation: UInt64
    /// A description of the process, for people.
    public var holder: String
    /// The store's place in the order of its changes.
    public var mark: UInt64
    /// The directory mark that it knows in `epoch`.
    public var directoryMark: DirectoryMark

    public struct Numbers: Hashable, Sendable {
        public var model: UInt32
        public var sequence: UInt64

        public init(model: UInt32 = 0, sequence: UInt64 = 0) {
            self.model = model
            self.sequence = sequence
        }
    }

    public init(
        rank: RankIndex, store: StoreID, cluster: ClusterID = .none, endpoint: Endpoint, epoch: Epoch,
        models: [ModelRecord], numbers: Numbers = Numbers(), useCount: UInt64 = 0, incarnation: UInt64 = 0,
        holder: String = "", mark: UInt64 = 0, directoryMark: DirectoryMark = .none
    ) {
        self.rank = rank
        self.store = store
        self.cluster = cluster
        self.endpoint = endpoint
        self.epoch = epoch
        self.models = models
        self.numbers = numbers
        self.useCount = useCount
        self.incarnation = incarnation
        self.holder = holder
        self.mark = mark
        self.directoryMark = directoryMark
    }

    package init(from reader: inout WireReader) throws(ServiceError) {
        rank = RankIndex(try reader.read("rank"))
        store = try StoreID(from: &reader)
        cluster = ClusterID(try reader.read("cluster"))
        endpoint = try Endpoint(from: &reader)
        epoch = Epoch(try reader.read("epoch"))
        models = try reader.readArray("models", byteCountMin: ModelRecord.byteCountMin) {
            r throws(ServiceError) in try ModelRecord(from: &r)
        }
        numbers = Numbers(model: try reader.read("highest model"), sequence: try reader.read("highest sequence"))
        useCount = try reader.read("use count")
        incarnation = try reader.read("incarnation")
        holder = try reader.readString("holder")
        mark = try reader.read("mark")
        directoryMark = try DirectoryMark(from: &reader)
    }

    package func encode(to writer: inout WireWriter) {
        writer.write(rank.value)
        store.encode(to: &writer)
        writer.write(cluster.value)
        endpoint.encode(to: &writer)
        writer.write(epoch.value)
        writer.write(models) { $1.encode(to: &$0) }
        writer.write(numbers.model)
        writer.write(numbers.sequence)
        writer.write(useCount)
        writer.write(incarnation)
        writer.write(holder)
        writer.write(mark)
        directoryMark.encode(to: &writer)
    }
}

/// The coordinator's view of the cluster, with which a client sends steps and a rank finds its peers.
public struct Topology: Hashable, Sendable {
    public enum Phase: UInt8, Sendable {
        /// A rank is missing. `reason` says which.
        case incomplete = 1
        /// All ranks are registered; each registers again with its lengths in this epoch and connects to its head
        /// group.
        case joining = 2
        case ready = 3
    }

    public struct Member: Hashable, Sendable {
        public var rank: RankIndex
        /// nil while the rank is missing.
        public var endpoint: Endpoint?

        public init(rank: RankIndex, endpoint: Endpoint?) {
            self.rank = rank
            self.endpoint = endpoint
        }
    }

    public var epoch: Epoch
    public var phase: Phase
    /// Why the cluster is not ready, for people: `rank 2 missing (its connection closed)`. Empty when it is.
    public var reason: String
    public var shape: ClusterShape
    /// A rank counts as lost if it sends nothing for this time.
    public var leaseMilliseconds: UInt32
    /// All W ranks, in order.
    public var members: [Member]
    public var cluster: ClusterID

    public init(
        epoch: Epoch, phase: Phase, reason: String, shape: ClusterShape, leaseMilliseconds: UInt32, members: [Member],
        cluster: ClusterID
    ) {
        precondition(members.count == shape.ranks)
        self.epoch = epoch
        self.phase = phase
        self.reason = reason
        self.shape = shape
        self.leaseMilliseconds = leaseMilliseconds
        self.members = members
        self.cluster = cluster
    }

    public func endpoint(of rank: RankIndex) -> Endpoint? { members[Int(rank.value)].endpoint }

    package init(from reader: inout WireReader) throws(ServiceError) {
        epoch = Epoch(try reader.read("epoch"))
        phase = try reader.readCase("phase")
        reason = try reader.readString("reason")
        shape = try ClusterShape(from: &reader)
        leaseMilliseconds = try reader.read("lease")
        members = try reader.readArray("members", byteCountMin: 3) { r throws(ServiceError) in
            Member(
                rank: RankIndex(try r.read("rank")),
                endpoint: try r.readBool("present") ? try Endpoint(from: &r) : nil)
        }
        guard members.map(\.rank) == shape.allRanks else {
            throw reader.malformed("lists \(members.count) members, not each of the \(shape.ranks) ranks in order")
        }
        cluster = ClusterID(try reader.read("cluster"))
    }

    package func encode(to writer: inout WireWriter) {
        writer.write(epoch.value)
        writer.write(phase.rawValue)
        writer.write(reason)
        shape.encode(to: &writer)
        writer.write(leaseMilliseconds)
        writer.write(members) {
            $0.write($1.rank.value)
            $0.write($1.endpoint != nil)
            $1.endpoint?.encode(to: &$0)
        }
        writer.write(cluster.value)
    }
}

extension ClusterShape {
    package init(from reader: inout WireReader) throws(ServiceError) {
        let ranks: UInt16 = try reader.read("ranks")
        let headGroups: UInt16 = try reader.read("head groups")
        let interleave: UInt32 = try reader.read("interleave")
        let blockTokens: UInt32 = try reader.read("block tokens")
        let exchange: Exchange = try reader.readCase("exchange")
        try self.init(
            ranks: Int(ranks), headGroups: Int(headGroups), interleave: Int(interleave), blockTokens: Int(blockTokens),
            exchange: exchange)
    }

    package func encode(to writer: inout WireWriter) {
        writer.write(UInt16(ranks))
        writer.write(UInt16(headGroups))
        writer.write(UInt32(layout.interleave))
        writer.write(UInt32(layout.blockTokens))
        writer.write(exchange.rawValue)
    }
}

extension Endpoint: WireFields {
    package init(from reader: inout WireReader) throws(ServiceError) {
        let text = try reader.readString("endpoint")
        do throws(ServiceError) {
            try self.init(text)
        } catch {
            throw reader.malformed("has an invalid `endpoint` (\(error.message))")
        }
    }

    package func encode(to writer: inout WireWriter) { writer.write(description) }
}
