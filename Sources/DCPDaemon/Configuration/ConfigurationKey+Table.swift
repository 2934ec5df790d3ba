internal import DCPCoordinator
internal import DCPCore
internal import DCPStore

/// Every setting there is. Flags, variables, the file's keys, `--print-config`, the manual page dcp.yaml(5) and the
/// article Configuration.md are made from this table.
extension ConfigurationKey {
    package static let ranks = ConfigurationKey(
        .cluster, "ranks", .integer(1...1024, unit: "ranks"), default: "1",
        "How many ranks the cluster has.",
        "Like all keys of `cluster`, for life: once the coordinator's state exists, another value is refused.")
    package static let headGroups = ConfigurationKey(
        .cluster, "head-groups", .integer(1...1024, unit: "head groups"), default: "1",
        "How many head groups the ranks form.", "Divides the ranks and every model's KV heads.")
    package static let interleave = ConfigurationKey(
        .cluster, "interleave", .integer(1...4096, unit: "tokens"), default: "1",
        "How many consecutive tokens one rank owns.", "Divides the block tokens.")
    package static let blockTokens = ConfigurationKey(
        .cluster, "block-tokens", .integer(16...4096, unit: "tokens"), default: "64",
        "Local tokens in a block; a multiple of 16.", "What a commit writes at once when a block fills.")
    package static let exchange = ConfigurationKey(
        .cluster, "exchange", .choice(["a2a", "ag-rs"], noun: "an exchange"), default: "a2a",
        "How ranks exchange partial results: a2a or ag-rs.",
        "`a2a` sends each rank its slice in one message; `ag-rs` gathers the log-sum-exps, corrects and reduces. Both give "
            + "the same bits; `a2a` saves a round trip per layer.")

    package static let coordinatorListen = ConfigurationKey(
        .coordinator, "listen", .endpoint, default: "unix:/run/dcp/coordinator.sock",
        "Where the coordinator listens: unix:PATH or tcp:HOST:PORT.",
        "A socket that systemd passes (dcp-coordinator.socket) is used instead.")
    package static let state = ConfigurationKey(
        .coordinator, "state", .path, default: "/var/lib/dcp/coordinator",
        "The directory of the coordinator's state; created when missing.")
    package static let lease = ConfigurationKey(
        .coordinator, "lease", .seconds(0.1...3600), default: "5",
        "How long a rank may stay silent before it counts as lost, in seconds.",
        "Ranks renew three times a lease. A machine that stalls for longer than the lease costs the cluster an epoch.")
    package static let unknownGrace = ConfigurationKey(
        .coordinator, "unknown-grace", .seconds(0...1e9), default: "3600",
        "How long ranks keep sequences that the directory does not know, in seconds.",
        "There are such when the coordinator's state was restored from a copy.")
    package static let evict = ConfigurationKey(
        .coordinator, "evict", .choice(EvictionPolicy.allCases.map(\.rawValue), noun: "an eviction policy"),
        default: "off",
        "When a rank's store is full: off (refuse new tokens) or lru (close the least recently used sequence).",
        "Pinned sequences (dcpctl sequence pin) and those in use stay.")
    package static let evictIdle = ConfigurationKey(
        .coordinator, "evict-idle", .seconds(0.1...86_400), default: "10",
        "With `lru`, how long a sequence must not have been used to be evicted, in seconds.",
        "At least the lease: uses are told with the leases, and below one a sequence in use could look idle.")
    package static let canaryInterval = ConfigurationKey(
        .coordinator, "canary-interval", .secondsOrOff(0.1...3600), default: "10",
        "How often a canary, a small step, is sent through all ranks, in seconds; or off.",
        "`/healthz` is good only while one went through within three intervals. A canary leaves nothing behind: its tokens "
            + "are taken back and never committed. It works with full stores, too; only the first needs to write.")
    package static let replaceStore = ConfigurationKey(
        .coordinator, "replace-store", .losses(.store), default: nil, isReloadable: true,
        "Ranks whose store is lost for good, each with the lost store's id: another one is taken in its place.",
        "The tokens that it held are given up. A store that is named has no effect once it is replaced. `dcpctl store replace` "
            + "does the same step by step.")
    package static let acceptOlderStore = ConfigurationKey(
        .coordinator, "accept-older-store", .losses(.change), default: nil, isReloadable: true,
        "Ranks whose store is lost but for an older copy, each with the change that is lost: the copy is taken.",
        "Every sequence is cut to what the copy holds. `dcpctl store accept-older` does the same step by step.")
    package static let coordinatorHTTP = http(
        .coordinator, default: "unix:/run/dcp/coordinator.http", example: "`127.0.0.1:9469`")
    package static let coordinatorHTTPAnyAddress = httpAnyAddress(.coordinator)
    package static let coordinatorAccess = AccessKeys(.coordinator)
    package static let coordinatorLogLevel = logLevel(.coordinator)

    package static let rankListen = ConfigurationKey(
        .rank, "listen", .endpoint, default: "unix:/run/dcp/rank-{rank}.sock",
        "Where the rank listens: unix:PATH or tcp:HOST:PORT.")
    package static let advertise = ConfigurationKey(
        .rank, "advertise", .endpoint, default: nil, "What others dial instead of the address the rank listens at.",
        "For addresses that are translated on the way.")
    package static let coordinator = ConfigurationKey(
        .rank, "coordinator", .endpoint, default: "unix:/run/dcp/coordinator.sock", "Where the coordinator listens.")
    package static let store = ConfigurationKey(
        .rank, "store", .path, default: "/var/lib/dcp/rank-{rank}",
        "The directory of the rank's store; created when missing.",
        "A store belongs to one rank of one cluster shape and refuses to be opened as anything else.")
    package static let threads = ConfigurationKey(
        .rank, "threads", .integer(1...1024, unit: "threads"), default: "1", "Compute threads.",
        "The event loop and the store's writer have a thread each besides. With a core to each thread a decode step reads "
            + "the shard at the speed of memory; more threads than cores only add switches.")
    package static let durability = ConfigurationKey(
        .rank, "durability", .choice(Durability.allCases.map(\.rawValue), noun: "a durability"), default: "everysec",
        "When a commit reaches the disk: always, everysec or never.",
        "Whatever it is, an acknowledged commit survives the death of the process. `always` survives power loss too, "
            + "`everysec` loses up to a second then, `never` whatever the kernel had not written.")
    package static let mapSize = ConfigurationKey(
        .rank, "map-size", .integer(1...65536, unit: "GiB"), default: "1024",
        "The largest size of the store's file, in GiB. Address space, not disk.")
    package static let diskLimit = ConfigurationKey(
        .rank, "disk-limit", .size(minimum: 4 << 20), default: nil,
        "The most that the store's data file may take on the disk: 200GB, 64MiB.",
        "The file never grows beyond it. Without a limit the store ends at `map-size`, or with the disk.")
    package static let highWatermark = ConfigurationKey(
        .rank, "high-watermark", .integer(1...100, unit: "%"), default: "95",
        "New tokens are refused from this share of the store's room on.",
        "Retryably, and on all ranks alike. Closing and truncating sequences makes room.")
    package static let lowWatermark = ConfigurationKey(
        .rank, "low-watermark", .integer(1...100, unit: "%"), default: "90", "Below this share they are taken again.")
    package static let uncommittedLimit = ConfigurationKey(
        .rank, "uncommitted-limit", .integer(1...1 << 20, unit: "MiB"), default: "1024",
        "RAM for tokens that are not committed yet, in MiB.",
        "When they take more than half of it, full blocks of theirs are spilled to the store, as far as that has room; a step "
            + "that finds no room waits for it. Only new tokens that fill no blocks are refused, with a retryable error."
    )
    package static let memoryLimit = ConfigurationKey(
        .rank, "memory-limit", .size(minimum: 1 << 20), default: nil,
        "RAM for open blocks, for tokens that are not committed, and for where blocks are: 4GB, 512MiB.",
        "Beyond it sequences that have committed all they have give up theirs, those that were used the longest ago first; "
            + "the next use brings it back from the store. What is in use is not limited by it. Without a limit only idle "
            + "sequences do so: see `memory-idle`.")
    package static let memoryIdle = ConfigurationKey(
        .rank, "memory-idle", .secondsOrOff(1...86_400), default: "60",
        "How long a sequence that nobody uses keeps what it has in RAM, in seconds; or off.",
        "The next use brings it back from the store: rows of its open block and the places of its blocks. What was found "
            + "intact is not read again.")
    package static let sharedMemory = ConfigurationKey(
        .rank, "shared-memory", .choice(["on", "off"], noun: "a setting"), default: "on",
        "Whether tensors of steps go through shared memory to the ranks of this host: on or off.",
        "Between ranks that are connected by a Unix socket and have it on both, of one payload at a time up to 2 MiB; 8 MiB "
            + "for each such rank. The results are the same to the bit.")
    package static let claimTimeout = ConfigurationKey(
        .rank, "claim-timeout", .seconds(0.1...86_400), default: "15",
        "How long a client may be gone before what it has not committed is taken back, in seconds.",
        "A client is gone when its connection is closed. One that is back in time goes on as if nothing had happened.")
    package static let drainTimeout = ConfigurationKey(
        .rank, "drain-timeout", .seconds(0...3600), default: "20", isReloadable: true,
        "How long a stop waits for steps and commits in flight, in seconds.",
        "Steps that have not ended by then are aborted; their clients are told. Keep it below TimeoutStopSec= of the unit."
    )
    package static let expectedCanaryInterval = ConfigurationKey(
        .rank, "canary-interval", .secondsOrOff(0.1...3600), default: "10",
        "How often the coordinator sends canaries, in seconds; or off.",
        "The same as `coordinator.canary-interval`: a rank's `/healthz` is good only while one went through it within "
            + "three intervals.")
    package static let rankHTTP = http(
        .rank, default: "unix:/run/dcp/rank-{rank}.http", example: "`127.0.0.1:947{rank}`, for ranks 0 to 9,")
    package static let rankHTTPAnyAddress = httpAnyAddress(.rank)
    package static let rankAccess = AccessKeys(.rank)
    package static let rankLogLevel = logLevel(.rank)

    package static let logLevels = ["trace", "debug", "info", "notice", "warning", "error", "critical"]

    private static func http(_ section: Section, default place: String, example: String) -> ConfigurationKey {
        ConfigurationKey(
            section, "http", .httpAddress, default: place,
            "Where /metrics, /healthz and /readyz are answered: IP:PORT, unix:PATH or off.",
            "\(example) is for a Prometheus that scrapes this host. Nobody is asked who he is.")
    }

    private static func httpAnyAddress(_ section: Section) -> ConfigurationKey {
        ConfigurationKey(
            section, "insecure-http-any-address", .boolean, default: "false",
            "Allow an HTTP address that is not loopback.",
            "Whoever reaches it reads the metrics. The unit's IPAddressDeny= has to be opened too.")
    }

    private static func logLevel(_ section: Section) -> ConfigurationKey {
        ConfigurationKey(
            section, "log-level", .choice(logLevels, noun: "a log level"), default: "info", isReloadable: true,
            "What to log: \(logLevels.joined(separator: ", ")).")
    }

    /// In the order of the reference.
    package static let all: [ConfigurationKey] =
        [
            ranks, headGroups, interleave, blockTokens, exchange, coordinatorListen, state, lease, unknownGrace,
            evict, evictIdle, canaryInterval, replaceStore, acceptOlderStore, coordinatorHTTP,
            coordinatorHTTPAnyAddress,
        ] + coordinatorAccess.all + [
            coordinatorLogLevel, rankListen, advertise, coordinator, store, threads, durability, mapSize, diskLimit,
            highWatermark, lowWatermark, uncommittedLimit, memoryLimit, memoryIdle, sharedMemory, claimTimeout,
            drainTimeout, expectedCanaryInterval, rankHTTP, rankHTTPAnyAddress,
        ] + rankAccess.all + [rankLogLevel]

    /// Those a daemon reads.
    package static let ofCoordinator = all.filter { $0.section != .rank }
    package static let ofRank = all.filter { $0.section == .rank }
}
