// SPDX-License-Identifier: Apache-2.0

package import DCPCoordinator
package import DCPCore
package import DCPStore
package import Logging

// All settings. Flags, variables, the file's keys, `--print-config`, the manual page dcp.yaml(5) and the article
// Configuration.md are generated from these tables.

/// The cluster's shape, which the coordinator records when it creates its state.
package struct ClusterKeys: SettingTable {
    package let ranks = ConfigurationKey<Int>(
        .cluster, "ranks", .integer(1...1024, unit: "ranks"), default: "1",
        "The number of ranks in the cluster.",
        "Like all keys of `cluster` it is permanent: once the coordinator's state exists, a different value is refused."
    )
    package let headGroups = ConfigurationKey<Int>(
        .cluster, "head-groups", .integer(1...1024, unit: "head groups"), default: "1",
        "The number of head groups that the ranks form.", "Must divide the ranks and every model's KV heads.")
    package let interleave = ConfigurationKey<Int>(
        .cluster, "interleave", .integer(1...4096, unit: "tokens"), default: "1",
        "The number of consecutive tokens that one rank owns.", "Must divide the block tokens.")
    package let blockTokens = ConfigurationKey<Int>(
        .cluster, "block-tokens", .integer(16...4096, unit: "tokens"), default: "64",
        "Local tokens in a block; a multiple of 16.", "A commit writes a block as a whole when it is full.")
    package let exchange = ConfigurationKey<Exchange>(
        .cluster, "exchange", .exchange, default: "a2a",
        "How ranks exchange partial results: a2a or ag-rs.",
        "`a2a` sends each rank its slice in one message; `ag-rs` gathers the log-sum-exps, corrects and reduces. Both give "
            + "the same bits; `a2a` needs one round trip less per layer.")

    init() {}
}

package struct CoordinatorKeys: SettingTable {
    package static let table = CoordinatorKeys()

    package let cluster = ClusterKeys()
    package let listen = ConfigurationKey<Endpoint>(
        .coordinator, "listen", .endpoint, default: "unix:/run/dcp/coordinator.sock",
        "Where the coordinator listens: unix:PATH or tcp:HOST:PORT.",
        "A socket passed by systemd (dcp-coordinator.socket) takes precedence.")
    package let state = ConfigurationKey<String>(
        .coordinator, "state", .path, default: "/var/lib/dcp/coordinator",
        "The directory of the coordinator's state; created if it does not exist.")
    package let lease = ConfigurationKey<Duration>(
        .coordinator, "lease", .seconds(0.1...3600), default: "5",
        "The time after which a silent rank counts as lost, in seconds.",
        "Ranks renew their lease three times in this time. A machine that stalls for longer starts a new epoch.")
    package let unknownGrace = ConfigurationKey<Duration>(
        .coordinator, "unknown-grace", .seconds(0...1e9), default: "3600",
        "The time for which ranks keep sequences that the directory does not know, in seconds.",
        "Such sequences exist after the coordinator's state was restored from a copy.")
    package let evict = ConfigurationKey<EvictionPolicy>(
        .coordinator, "evict", .choice(EvictionPolicy.self, noun: "an eviction policy"),
        default: "off",
        "What to do when a rank's store is full: off (refuse new tokens) or lru (close the least recently used sequence).",
        "Pinned sequences (dcpctl sequence pin) and sequences in use are never closed.")
    package let evictIdle = ConfigurationKey<Duration>(
        .coordinator, "evict-idle", .seconds(0.1...86_400), default: "10",
        "With `lru`, the time since its last use after which a sequence may be evicted, in seconds.",
        "Not less than the lease: ranks report uses with their leases, so a sequence in use could otherwise appear idle."
    )
    package let canaryInterval = ConfigurationKey<Duration?>(
        .coordinator, "canary-interval", .secondsOrOff(0.1...3600), default: "10",
        "The interval between canaries, small steps through all ranks, in seconds; or off.",
        "`/healthz` fails if no canary succeeded within the last three intervals. A canary leaves nothing behind: its "
            + "tokens are never committed. It also works with full stores; only the first one needs to write.")
    package let replaceStore = ConfigurationKey<Set<RankLoss>>(
        .coordinator, "replace-store", .losses(.store), unset: [], isReloadable: true,
        "Ranks whose store is permanently lost, each with the lost store's id: a new store replaces it.",
        "The tokens in the lost store are given up. The setting has no effect once the store is replaced. `dcpctl store "
            + "replace` does the same interactively.")
    package let acceptOlderStore = ConfigurationKey<Set<RankLoss>>(
        .coordinator, "accept-older-store", .losses(.change), unset: [], isReloadable: true,
        "Ranks of whose store only an older copy is left, each with the change that is lost: the copy is accepted.",
        "Every sequence is cut to the length in the copy. `dcpctl store accept-older` does the same interactively.")
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
        .rank, "advertise", .endpoint,
        "The address at which others connect, if it differs from the one at which the rank listens.",
        "For networks that translate addresses.")
    package let coordinator = ConfigurationKey<Endpoint>(
        .rank, "coordinator", .endpoint, default: "unix:/run/dcp/coordinator.sock", "Where the coordinator listens.")
    package let store = ConfigurationKey<String>(
        .rank, "store", .path, default: "/var/lib/dcp/rank-{rank}",
        "The directory of the rank's store; created if it does not exist.",
        "A store belongs to one rank of one cluster shape; no other rank can open it.")
    package let threads = ConfigurationKey<Int>(
        .rank, "threads", .integer(1...1024, unit: "threads"), default: "1", "Compute threads.",
        "The event loop and the store's writer use one more thread each. With a core for each thread, a decode step reads "
            + "the shard at the speed of memory; more threads than cores only add context switches.")
    package let durability = ConfigurationKey<Durability>(
        .rank, "durability", .choice(Durability.self, noun: "a durability"), default: "everysec",
        "When a commit is synced to the disk: always, everysec or never.",
        "An acknowledged commit survives the death of the process in any case. A power loss costs nothing with `always`, up to "
            + "a second of commits with `everysec`, and anything that the kernel had not written with `never`.")
    package let mapSize = ConfigurationKey<Int>(
        .rank, "map-size", .integer(1...65536, unit: "GiB"), default: "1024",
        "The largest size of the store's file, in GiB. Address space, not disk.")
    package let diskLimit = ConfigurationKey<Int?>(
        .rank, "disk-limit", .size(minimum: 4 << 20),
        "The maximum size of the store's data file on the disk: 200GB, 64MiB.",
        "The file does not grow beyond it; one that is larger already grows by at most 16 MiB, so that sequences can be "
            + "closed. Without a limit, `map-size` or the disk bounds the store.")
    package let highWatermark = ConfigurationKey<Int>(
        .rank, "high-watermark", .integer(1...100, unit: "%"), default: "95",
        "The share of the store's room above which new tokens are refused.",
        "The error is retryable, and the same on all ranks. Closing or truncating sequences frees room.")
    package let lowWatermark = ConfigurationKey<Int>(
        .rank, "low-watermark", .integer(1...100, unit: "%"), default: "90",
        "The share of the store's room below which new tokens are accepted again.")
    package let uncommittedLimit = ConfigurationKey<Int>(
        .rank, "uncommitted-limit", .integer(1...1 << 20, unit: "MiB"), default: "1024",
        "RAM for uncommitted tokens, in MiB.",
        "Beyond half of it, full blocks are spilled to the store while it has room, and a step that finds no room waits for "
            + "that. New tokens that fill no block are refused with a retryable error."
    )
    package let memoryLimit = ConfigurationKey<Int?>(
        .rank, "memory-limit", .size(minimum: 1 << 20),
        "RAM for open blocks, uncommitted tokens and block addresses: 4GB, 512MiB.",
        "Beyond it, the least recently used sequences without uncommitted tokens leave RAM; the next use loads them from the "
            + "store. Sequences in use are not limited. Without a limit only idle sequences leave RAM: see `memory-idle`."
    )
    package let memoryIdle = ConfigurationKey<Duration?>(
        .rank, "memory-idle", .secondsOrOff(1...86_400), default: "60",
        "The time after which an unused sequence leaves RAM, in seconds; or off.",
        "The next use loads the rows of its open block and its block addresses from the store. Checksums that were compared "
            + "before are not compared again.")
    package let sharedMemory = ConfigurationKey<Bool>(
        .rank, "shared-memory", .onOff, default: "on",
        "Whether ranks of one host exchange tensors through shared memory: on or off.",
        "Applies between ranks that are connected by a Unix socket and both have it on. A payload may have 2 MiB; each such "
            + "rank takes 8 MiB of memory. The results are the same to the bit.")
    package let claimTimeout = ConfigurationKey<Duration>(
        .rank, "claim-timeout", .seconds(0.1...86_400), default: "15",
        "The time after a client disconnects before its uncommitted tokens are dropped, in seconds.",
        "A client that reconnects in time continues where it was.")
    package let drainTimeout = ConfigurationKey<Duration>(
        .rank, "drain-timeout", .seconds(0...3600), default: "20", isReloadable: true,
        "The time for which a stop waits for steps and commits in flight, in seconds.",
        "Steps that have not ended by then are aborted with an error to the client. Keep it below the unit's TimeoutStopSec=."
    )
    package let canaryInterval = ConfigurationKey<Duration?>(
        .rank, "canary-interval", .secondsOrOff(0.1...3600), default: "10",
        "The interval at which the coordinator sends canaries, in seconds; or off.",
        "The same value as `coordinator.canary-interval`: a rank's `/healthz` fails if no canary succeeded within the last "
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
        "The address of /metrics, /healthz and /readyz: IP:PORT, unix:PATH or off.",
        "\(example) is for a Prometheus that scrapes this host. Requests are not authenticated.")
}

private func httpAnyAddressKey(_ section: Setting.Section) -> ConfigurationKey<Bool> {
    ConfigurationKey(
        section, "insecure-http-any-address", .boolean, default: "false",
        "Allow an HTTP address that is not a loopback address.",
        "Everyone who can reach it can read the metrics. The unit's IPAddressDeny= must allow it too.")
}

private func logLevelKey(_ section: Setting.Section) -> ConfigurationKey<Logger.Level> {
    ConfigurationKey(
        section, "log-level", .choice(Logger.Level.self, noun: "a log level"), default: "info", isReloadable: true,
        "The lowest level to log: \(Logger.Level.allCases.map(\.rawValue).joined(separator: ", ")).")
}
