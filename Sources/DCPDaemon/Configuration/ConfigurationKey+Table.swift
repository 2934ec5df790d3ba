package import DCPCoordinator
package import DCPCore
package import DCPStore
package import Logging

// Every setting there is. Flags, variables, the file's keys, `--print-config`, the manual page dcp.yaml(5) and the
// article Configuration.md are made from these tables.

/// What the coordinator makes of the cluster.
package struct ClusterKeys: SettingTable {
    package let ranks = ConfigurationKey<Int>(
        .cluster, "ranks", .integer(1...1024, unit: "ranks"), default: "1",
        "How many ranks the cluster has.",
        "Like all keys of `cluster`, for life: once the coordinator's state exists, another value is refused.")
    package let headGroups = ConfigurationKey<Int>(
        .cluster, "head-groups", .integer(1...1024, unit: "head groups"), default: "1",
        "How many head groups the ranks form.", "Divides the ranks and every model's KV heads.")
    package let interleave = ConfigurationKey<Int>(
        .cluster, "interleave", .integer(1...4096, unit: "tokens"), default: "1",
        "How many consecutive tokens one rank owns.", "Divides the block tokens.")
    package let blockTokens = ConfigurationKey<Int>(
        .cluster, "block-tokens", .integer(16...4096, unit: "tokens"), default: "64",
        "Local tokens in a block; a multiple of 16.", "What a commit writes at once when a block fills.")
    package let exchange = ConfigurationKey<Exchange>(
        .cluster, "exchange", .exchange, default: "a2a",
        "How ranks exchange partial results: a2a or ag-rs.",
        "`a2a` sends each rank its slice in one message; `ag-rs` gathers the log-sum-exps, corrects and reduces. Both give "
            + "the same bits; `a2a` saves a round trip per layer.")

    init() {}
}

package struct CoordinatorKeys: SettingTable {
    package static let table = CoordinatorKeys()

    package let cluster = ClusterKeys()
    package let listen = ConfigurationKey<Endpoint>(
        .coordinator, "listen", .endpoint, default: "unix:/run/dcp/coordinator.sock",
        "Where the coordinator listens: unix:PATH or tcp:HOST:PORT.",
        "A socket that systemd passes (dcp-coordinator.socket) is used instead.")
    package let state = ConfigurationKey<String>(
        .coordinator, "state", .path, default: "/var/lib/dcp/coordinator",
        "The directory of the coordinator's state; created when missing.")
    package let lease = ConfigurationKey<Duration>(
        .coordinator, "lease", .seconds(0.1...3600), default: "5",
        "How long a rank may stay silent before it counts as lost, in seconds.",
        "Ranks renew three times a lease. A machine that stalls for longer than the lease costs the cluster an epoch.")
    package let unknownGrace = ConfigurationKey<Duration>(
        .coordinator, "unknown-grace", .seconds(0...1e9), default: "3600",
        "How long ranks keep sequences that the directory does not know, in seconds.",
        "There are such when the coordinator's state was restored from a copy.")
    package let evict = ConfigurationKey<EvictionPolicy>(
        .coordinator, "evict", .choice(EvictionPolicy.self, noun: "an eviction policy"),
        default: "off",
        "When a rank's store is full: off (refuse new tokens) or lru (close the least recently used sequence).",
        "Pinned sequences (dcpctl sequence pin) and those in use stay.")
    package let evictIdle = ConfigurationKey<Duration>(
        .coordinator, "evict-idle", .seconds(0.1...86_400), default: "10",
        "With `lru`, how long a sequence must not have been used to be evicted, in seconds.",
        "At least the lease: uses are told with the leases, and below one a sequence in use could look idle.")
    package let canaryInterval = ConfigurationKey<Duration?>(
        .coordinator, "canary-interval", .secondsOrOff(0.1...3600), default: "10",
        "How often a canary, a small step, is sent through all ranks, in seconds; or off.",
        "`/healthz` is good only while one went through within three intervals. A canary leaves nothing behind: its tokens "
            + "are taken back and never committed. It works with full stores, too; only the first needs to write.")
    package let replaceStore = ConfigurationKey<Set<RankLoss>>(
        .coordinator, "replace-store", .losses(.store), unset: [], isReloadable: true,
        "Ranks whose store is lost for good, each with the lost store's id: another one is taken in its place.",
        "The tokens that it held are given up. A store that is named has no effect once it is replaced. `dcpctl store replace` "
            + "does the same step by step.")
    package let acceptOlderStore = ConfigurationKey<Set<RankLoss>>(
        .coordinator, "accept-older-store", .losses(.change), unset: [], isReloadable: true,
        "Ranks whose store is lost but for an older copy, each with the change that is lost: the copy is taken.",
        "Every sequence is cut to what the copy holds. `dcpctl store accept-older` does the same step by step.")
    package let http = httpKey(
        .coordinator, default: "unix:/run/dcp/coordinator.http", example: "`127.0.0.1:9469`")
    package let httpAnyAddress = httpAnyAddressKey(.coordinator)
    package let access = AccessKeys(.coordinator)
    package let logLevel = logLevelKey(.coordinator)

    private init() {}
}

package struct RankKeys: SettingTable {
    package static let table = RankKeys()

    package let listen = ConfigurationKey<Endpoint>(
        .rank, "listen", .endpoint, default: "unix:/run/dcp/rank-{rank}.sock",
        "Where the rank listens: unix:PATH or tcp:HOST:PORT.")
    package let advertise = ConfigurationKey<Endpoint?>(
        .rank, "advertise", .endpoint, "What others dial instead of the address the rank listens at.",
        "For addresses that are translated on the way.")
    package let coordinator = ConfigurationKey<Endpoint>(
        .rank, "coordinator", .endpoint, default: "unix:/run/dcp/coordinator.sock", "Where the coordinator listens.")
    package let store = ConfigurationKey<String>(
        .rank, "store", .path, default: "/var/lib/dcp/rank-{rank}",
        "The directory of the rank's store; created when missing.",
        "A store belongs to one rank of one cluster shape and refuses to be opened as anything else.")
    package let threads = ConfigurationKey<Int>(
        .rank, "threads", .integer(1...1024, unit: "threads"), default: "1", "Compute threads.",
        "The event loop and the store's writer have a thread each besides. With a core to each thread a decode step reads "
            + "the shard at the speed of memory; more threads than cores only add switches.")
    package let durability = ConfigurationKey<Durability>(
        .rank, "durability", .choice(Durability.self, noun: "a durability"), default: "everysec",
        "When a commit reaches the disk: always, everysec or never.",
        "Whatever it is, an acknowledged commit survives the death of the process. `always` survives power loss too, "
            + "`everysec` loses up to a second then, `never` whatever the kernel had not written.")
    package let mapSize = ConfigurationKey<Int>(
        .rank, "map-size", .integer(1...65536, unit: "GiB"), default: "1024",
        "The largest size of the store's file, in GiB. Address space, not disk.")
    package let diskLimit = ConfigurationKey<Int?>(
        .rank, "disk-limit", .size(minimum: 4 << 20),
        "The most that the store's data file may take on the disk: 200GB, 64MiB.",
        "The file never grows beyond it. Without a limit the store ends at `map-size`, or with the disk.")
    package let highWatermark = ConfigurationKey<Int>(
        .rank, "high-watermark", .integer(1...100, unit: "%"), default: "95",
        "New tokens are refused from this share of the store's room on.",
        "Retryably, and on all ranks alike. Closing and truncating sequences makes room.")
    package let lowWatermark = ConfigurationKey<Int>(
        .rank, "low-watermark", .integer(1...100, unit: "%"), default: "90", "Below this share they are taken again.")
    package let uncommittedLimit = ConfigurationKey<Int>(
        .rank, "uncommitted-limit", .integer(1...1 << 20, unit: "MiB"), default: "1024",
        "RAM for tokens that are not committed yet, in MiB.",
        "When they take more than half of it, full blocks of theirs are spilled to the store, as far as that has room; a step "
            + "that finds no room waits for it. Only new tokens that fill no blocks are refused, with a retryable error."
    )
    package let memoryLimit = ConfigurationKey<Int?>(
        .rank, "memory-limit", .size(minimum: 1 << 20),
        "RAM for open blocks, for tokens that are not committed, and for where blocks are: 4GB, 512MiB.",
        "Beyond it sequences that have committed all they have give up theirs, those that were used the longest ago first; "
            + "the next use brings it back from the store. What is in use is not limited by it. Without a limit only idle "
            + "sequences do so: see `memory-idle`.")
    package let memoryIdle = ConfigurationKey<Duration?>(
        .rank, "memory-idle", .secondsOrOff(1...86_400), default: "60",
        "How long a sequence that nobody uses keeps what it has in RAM, in seconds; or off.",
        "The next use brings it back from the store: rows of its open block and the places of its blocks. What was found "
            + "intact is not read again.")
    package let sharedMemory = ConfigurationKey<Bool>(
        .rank, "shared-memory", .onOff, default: "on",
        "Whether tensors of steps go through shared memory to the ranks of this host: on or off.",
        "Between ranks that are connected by a Unix socket and have it on both, of one payload at a time up to 2 MiB; 8 MiB "
            + "for each such rank. The results are the same to the bit.")
    package let claimTimeout = ConfigurationKey<Duration>(
        .rank, "claim-timeout", .seconds(0.1...86_400), default: "15",
        "How long a client may be gone before what it has not committed is taken back, in seconds.",
        "A client is gone when its connection is closed. One that is back in time goes on as if nothing had happened.")
    package let drainTimeout = ConfigurationKey<Duration>(
        .rank, "drain-timeout", .seconds(0...3600), default: "20", isReloadable: true,
        "How long a stop waits for steps and commits in flight, in seconds.",
        "Steps that have not ended by then are aborted; their clients are told. Keep it below TimeoutStopSec= of the unit."
    )
    package let canaryInterval = ConfigurationKey<Duration?>(
        .rank, "canary-interval", .secondsOrOff(0.1...3600), default: "10",
        "How often the coordinator sends canaries, in seconds; or off.",
        "The same as `coordinator.canary-interval`: a rank's `/healthz` is good only while one went through it within "
            + "three intervals.")
    package let http = httpKey(
        .rank, default: "unix:/run/dcp/rank-{rank}.http", example: "`127.0.0.1:947{rank}`, for ranks 0 to 9,")
    package let httpAnyAddress = httpAnyAddressKey(.rank)
    package let access = AccessKeys(.rank)
    package let logLevel = logLevelKey(.rank)

    private init() {}
}

private func httpKey(_ section: Setting.Section, default place: String, example: String) -> ConfigurationKey<
    HTTPAddress?
> {
    ConfigurationKey(
        section, "http", .httpAddress, default: place,
        "Where /metrics, /healthz and /readyz are answered: IP:PORT, unix:PATH or off.",
        "\(example) is for a Prometheus that scrapes this host. Nobody is asked who he is.")
}

private func httpAnyAddressKey(_ section: Setting.Section) -> ConfigurationKey<Bool> {
    ConfigurationKey(
        section, "insecure-http-any-address", .boolean, default: "false",
        "Allow an HTTP address that is not loopback.",
        "Whoever reaches it reads the metrics. The unit's IPAddressDeny= has to be opened too.")
}

private func logLevelKey(_ section: Setting.Section) -> ConfigurationKey<Logger.Level> {
    ConfigurationKey(
        section, "log-level", .choice(Logger.Level.self, noun: "a log level"), default: "info", isReloadable: true,
        "What to log: \(Logger.Level.allCases.map(\.rawValue).joined(separator: ", ")).")
}
