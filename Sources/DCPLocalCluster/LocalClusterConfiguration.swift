// SPDX-License-Identifier: Apache-2.0

public import DCPCore

/// The configuration chosen by the first `up` in a directory and kept in `cluster.json`; the layout of stores depends
/// on it.
public struct LocalClusterConfiguration: Codable, Hashable, Sendable {
    public enum Transport: String, Codable, Sendable {
        case unix
        case tcp
    }

    public let ranks: Int
    public let headGroups: Int
    public let interleave: Int
    public let blockTokens: Int
    /// `a2a` or `ag-rs`.
    public let exchange: String
    public let transport: Transport
    /// Unlike the rest, these may change at each start.
    public internal(set) var disk = DiskOptions()

    public init(shape: ClusterShape, transport: Transport) {
        self.ranks = shape.ranks
        self.headGroups = shape.headGroups
        self.interleave = shape.layout.interleave
        self.blockTokens = shape.layout.blockTokens
        self.exchange = shape.exchange.name
        self.transport = transport
    }

    /// The coordinator, then the ranks: the order of starting.
    var roles: [DaemonRole] { [.coordinator] + (0..<ranks).map { .rank(RankIndex(UInt16($0))) } }

    /// - Throws: `.invalidConfiguration` for invalid values, for example in an edited file.
    public func shape() throws(ServiceError) -> ClusterShape {
        guard let exchange = Exchange(name: exchange) else {
            throw ServiceError(
                .invalidConfiguration, "The exchange \(exchange.debugDescription) is unknown; use a2a or ag-rs.")
        }
        return try ClusterShape(
            ranks: ranks, headGroups: headGroups, interleave: interleave, blockTokens: blockTokens, exchange: exchange)
    }
}

/// Disk options of a local cluster's daemons, as in their own options. The daemons check the values. For nil the
/// directory's value applies, or the daemons' default.
public struct DiskOptions: Codable, Hashable, Sendable {
    /// Of each rank: `200GB`.
    public var diskLimit: String?
    /// Per cent.
    public var highWatermark: String?
    /// Per cent.
    public var lowWatermark: String?
    /// `always`, `everysec` or `never`.
    public var durability: String?
    /// `off` or `lru`.
    public var evict: String?
    /// Seconds.
    public var evictIdle: String?

    public init() {}

    /// These, and the older ones where these say nothing.
    func over(_ older: DiskOptions) -> DiskOptions {
        var merged = self
        for field in Self.fields {
            merged[keyPath: field.path] = merged[keyPath: field.path] ?? older[keyPath: field.path]
        }
        return merged
    }

    /// Of the daemon's command line.
    func arguments(ofCoordinator: Bool) -> [String] {
        Self.fields.filter { $0.isCoordinators == ofCoordinator }.flatMap { field in
            self[keyPath: field.path].map { [field.option, $0] } ?? []
        }
    }

    private typealias Field = (path: WritableKeyPath<DiskOptions, String?>, option: String, isCoordinators: Bool)

    private static var fields: [Field] {
        [
            (\.diskLimit, "--disk-limit", false), (\.highWatermark, "--high-watermark", false),
            (\.lowWatermark, "--low-watermark", false), (\.durability, "--durability", false),
            (\.evict, "--evict", true), (\.evictIdle, "--evict-idle", true),
        ]
    }
}

/// Options for starting a local cluster. For nil the directory's value applies, or the default.
public struct LocalClusterOptions: Sendable {
    /// Default 4.
    public var ranks: Int?
    /// Default 1.
    public var headGroups: Int?
    /// Default 1.
    public var interleave: Int?
    /// Default 64.
    public var blockTokens: Int?
    /// Default `.allToAll`.
    public var exchange: Exchange?
    /// Default Unix sockets in the cluster's directory; TCP is on 127.0.0.1, without TLS.
    public var transport: LocalClusterConfiguration.Transport?

    public var disk = DiskOptions()

    /// Compute threads of each rank; nil divides the machine's cores among the ranks, at least 1 each.
    public var threadsPerRank: Int?
    /// Whether the daemons outlive this process. If not, they stop when it ends, for any reason.
    public var detached = false
    /// Where `dcp-coordinator` and `dcp-rank` are; nil is `DCP_BIN_DIR`, or else beside the running executable.
    public var binDirectory: String?
    /// Appended to the daemons' own arguments.
    public var coordinatorArguments: [String] = []
    public var rankArguments: [String] = []
    /// The endpoint that each rank advertises instead of its own, if there is a proxy in front of it.
    public var advertisedEndpoints: [RankIndex: String] = [:]
    /// Added to the daemons' environment.
    public var environment: [String: String] = [:]

    public init() {}

    /// The configuration of a new directory, or an existing one when no option contradicts it.
    /// - Throws: `.invalidConfiguration` for values that are no cluster; `.conflict` naming each option that differs
    ///   from what the directory's stores were created with.
    func resolve(_ existing: LocalClusterConfiguration?, directory: String) throws(ServiceError)
        -> LocalClusterConfiguration
    {
        guard let existing else {
            let shape = try ClusterShape(
                ranks: ranks ?? 4, headGroups: headGroups ?? 1, interleave: interleave ?? 1,
                blockTokens: blockTokens ?? 64, exchange: exchange ?? .allToAll)
            var configuration = LocalClusterConfiguration(shape: shape, transport: transport ?? .unix)
            configuration.disk = disk
            return configuration
        }
        var differences: [String] = []
        func compare<Value: Equatable>(_ name: String, _ stored: Value, _ asked: Value?) {
            if let asked, asked != stored { differences.append("\(name) \(stored), not \(asked)") }
        }
        compare("--ranks", existing.ranks, ranks)
        compare("--head-groups", existing.headGroups, headGroups)
        compare("--interleave", existing.interleave, interleave)
        compare("--block-tokens", existing.blockTokens, blockTokens)
        compare("--exchange", existing.exchange, exchange?.name)
        compare("transport", existing.transport.rawValue, transport?.rawValue)
        guard differences.isEmpty else {
            throw ServiceError(
                .conflict,
                "The cluster in \(directory) was created with \(differences.joined(separator: "; ")). Omit these "
                    + "options to start it as it is, or choose another --dir for a new cluster.")
        }
        _ = try existing.shape()
        var configuration = existing
        configuration.disk = disk.over(existing.disk)
        return configuration
    }
}
