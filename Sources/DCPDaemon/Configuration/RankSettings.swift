// SPDX-License-Identifier: Apache-2.0

internal import DCPAttention
internal import DCPCache
internal import DCPCore
internal import DCPHost
internal import DCPRank
internal import DCPStore
internal import DCPTransport
internal import Logging
internal import NIOCore

/// A rank's configuration as the types that the rank is made from.
struct RankSettings {
    var rank: RankConfiguration
    var cache: ShardCache.Settings
    var storeDirectory: String
    var observability: ObservabilitySettings
    var logLevel: Logger.Level

    /// - Throws: `ConfigurationError` for what single values do not show: plain TCP that was not asked for, kernels that
    ///   the CPU does not have.
    /// - Parameter isKnown: whether it is this rank that is configured, and not the file without a rank that is looked at.
    init(_ configuration: Configuration, rank: RankIndex, isKnown: Bool = true) throws {
        do throws(ServiceError) { try KernelSelection.check() } catch {
            throw ConfigurationError(.variable("DCP_KERNELS"), error.message)
        }
        do throws(ServiceError) { _ = try Prefetch.forced() } catch {
            throw ConfigurationError(.variable(Prefetch.variable), error.message)
        }
        let keys = RankKeys.table, access = keys.access
        let link = try configuration.link(access, role: isKnown ? .rank(rank) : nil)
        let listen = try configuration.listenEndpoint(keys.listen, access)
        self.rank = RankConfiguration(
            rank: rank, listen: listen, advertise: configuration[keys.advertise],
            coordinator: try configuration.dialledEndpoint(keys.coordinator, access),
            threads: configuration[keys.threads])
        self.rank.link = link
        self.rank.link.memory = configuration[keys.sharedMemory] ? MemorySettings() : nil
        self.rank.drainTimeout = TimeAmount(configuration[keys.drainTimeout])
        self.rank.claimTimeout = TimeAmount(configuration[keys.claimTimeout])
        self.rank.memoryIdle = configuration[keys.memoryIdle].map { TimeAmount($0) }
        cache = ShardCache.Settings()
        cache.durability = configuration[keys.durability]
        cache.mapByteCountMax = configuration[keys.mapSize] << 30
        if let limit = configuration[keys.diskLimit] {
            let byteCount = ShardCache.Settings.mapByteCountMax(diskByteCountMax: limit)
            let isBuiltIn = configuration.statement(of: keys.mapSize.setting)?.origin == .builtIn
            cache.mapByteCountMax = isBuiltIn ? byteCount : min(byteCount, cache.mapByteCountMax)
        }
        let (high, low) = (configuration[keys.highWatermark], configuration[keys.lowWatermark])
        cache.watermarks = try configuration.checked([keys.highWatermark.setting, keys.lowWatermark.setting]) {
            () throws(ServiceError) in
            guard let watermarks = Watermarks(high: high, low: low) else {
                throw ServiceError(
                    .invalidConfiguration,
                    "Watermarks of \(high) % and \(low) % are not 1 <= low < high <= 100; correct one of them.")
            }
            return watermarks
        }
        cache.uncommittedByteCountMax = configuration[keys.uncommittedLimit] << 20
        cache.memoryByteCountMax = configuration[keys.memoryLimit]
        observability = try ObservabilitySettings(
            configuration, http: keys.http, anyAddress: keys.httpAnyAddress, canaryInterval: keys.canaryInterval)
        let store = configuration[keys.store]
        storeDirectory = store
        self.rank.hostReport = { HostInspection.report(store: store) }
        logLevel = configuration[keys.logLevel]
    }
}
