internal import DCPAttention
internal import DCPCache
internal import DCPClient
internal import DCPCore
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
        let access = ConfigurationKey.rankAccess
        let link = try configuration.link(access, role: isKnown ? .rank(rank) : nil)
        let listen = try configuration.listenEndpoint(.rankListen, access)
        var advertised: Endpoint?
        if configuration[.advertise] != nil { advertised = try configuration.endpoint(.advertise) }
        self.rank = RankConfiguration(
            rank: rank, listen: listen, advertise: advertised,
            coordinator: try configuration.dialledEndpoint(.coordinator, access),
            threads: configuration.integer(.threads))
        self.rank.link = link
        self.rank.link.memory = configuration.text(.sharedMemory) == "on" ? MemorySettings() : nil
        self.rank.drainTimeout = configuration.timeAmount(.drainTimeout)
        self.rank.claimTimeout = configuration.timeAmount(.claimTimeout)
        self.rank.memoryIdle =
            configuration.text(.memoryIdle) == "off" ? nil : configuration.timeAmount(.memoryIdle)
        cache = ShardCache.Settings()
        cache.durability = Durability(rawValue: configuration.text(.durability))!
        cache.mapByteCountMax = configuration.integer(.mapSize) << 30
        if let limit = configuration[.diskLimit].flatMap({ ByteSize($0.text) }) {
            let byteCount = ShardCache.Settings.mapByteCountMax(diskByteCountMax: limit.byteCount)
            let isBuiltIn = configuration[.mapSize]?.origin == .builtIn
            cache.mapByteCountMax = isBuiltIn ? byteCount : min(byteCount, cache.mapByteCountMax)
        }
        let (high, low) = (configuration.integer(.highWatermark), configuration.integer(.lowWatermark))
        cache.watermarks = try configuration.checked([.highWatermark, .lowWatermark]) { () throws(ServiceError) in
            guard let watermarks = Watermarks(high: high, low: low) else {
                throw ServiceError(
                    .invalidConfiguration,
                    "Watermarks of \(high) % and \(low) % are not 1 <= low < high <= 100; correct one of them.")
            }
            return watermarks
        }
        cache.uncommittedByteCountMax = configuration.integer(.uncommittedLimit) << 20
        cache.memoryByteCountMax = configuration[.memoryLimit].flatMap { ByteSize($0.text)?.byteCount }
        observability = try ObservabilitySettings(
            configuration, http: .rankHTTP, anyAddress: .rankHTTPAnyAddress, canaryInterval: .expectedCanaryInterval)
        let store = configuration.text(.store)
        storeDirectory = store
        self.rank.hostReport = { HostInspection.report(store: store) }
        logLevel = Logger.Level(rawValue: configuration.text(.rankLogLevel))!
    }
}

extension Configuration {
    func endpoint(_ key: ConfigurationKey) throws -> Endpoint {
        try checked([key]) { () throws(ServiceError) in try Endpoint(text(key)) }
    }

    func timeAmount(_ key: ConfigurationKey) -> TimeAmount {
        .nanoseconds(Int64((seconds(key) * 1e9).rounded()))
    }
}
