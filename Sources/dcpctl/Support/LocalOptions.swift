// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import DCPClient
import DCPCore
import DCPLocalCluster
import DCPTransport
import Glibc

/// The shape of a cluster on this machine.
struct ClusterOptions: ParsableArguments {
    @Option(
        parsing: .unconditional,
        help: "Number of head groups; must divide the ranks and every model's KV heads. Default: 1.")
    var headGroups: Int?

    @Option(
        parsing: .unconditional,
        help: "Number of consecutive tokens that one rank owns; must divide --block-tokens. Default: 1.")
    var interleave: Int?

    @Option(parsing: .unconditional, help: "Number of tokens in a block; must be a multiple of 16. Default: 64.")
    var blockTokens: Int?

    @Option(help: "How ranks exchange partial results: a2a or ag-rs. Default: a2a.")
    var exchange: String?

    @Option(parsing: .unconditional, help: "Compute threads of each rank. Default: 1.")
    var threads: Int?

    @Flag(help: "Use TCP on 127.0.0.1 instead of Unix sockets. Any local user can then reach the daemons.")
    var tcp = false

    func validate() throws {
        if let exchange, Exchange(name: exchange) == nil {
            throw ValidationError("`\(exchange)` is not an exchange; use a2a or ag-rs.")
        }
        if let threads, threads < 1 {
            throw ValidationError("--threads: \(threads) is below the minimum of 1.")
        }
    }

    /// Whether any of them was given.
    var isGiven: Bool { headGroups ?? interleave ?? blockTokens ?? threads != nil || exchange != nil || tcp }

    func options(ranks: Int?, detached: Bool = false) -> LocalClusterOptions {
        var options = LocalClusterOptions()
        options.detached = detached
        options.ranks = ranks
        options.headGroups = headGroups
        options.interleave = interleave
        options.blockTokens = blockTokens
        options.exchange = exchange.flatMap { Exchange(name: $0) }
        options.transport = tcp ? .tcp : nil
        options.threadsPerRank = threads
        return options
    }
}

/// Disk options for the daemons of a local cluster, which check the values.
struct LocalDiskOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "Largest size of each rank's data file: 200GB, 64MiB. Default: no limit.",
            valueName: "size"))
    var diskLimit: String?

    @Option(
        help: ArgumentHelp(
            "High watermark: a rank refuses new tokens from this percentage of its store's room on. Default: 95.",
            valueName: "per cent"))
    var highWatermark: String?

    @Option(
        help: ArgumentHelp(
            "Low watermark: below this percentage the rank accepts new tokens again. Default: "
                + "90.", valueName: "per cent"))
    var lowWatermark: String?

    @Option(
        help: ArgumentHelp(
            "When a commit is synced: always, everysec or never. Default: everysec.", valueName: "durability"))
    var durability: String?

    @Option(
        help: ArgumentHelp(
            "When a store is full: off (refuse new tokens) or lru (close the least recently used sequence). Default: off.",
            valueName: "policy"))
    var evict: String?

    @Option(
        help: ArgumentHelp(
            "With lru, the seconds without use after which a sequence may be evicted. Default: 10.",
            valueName: "seconds"))
    var evictIdle: String?

    var options: DiskOptions {
        var options = DiskOptions()
        options.diskLimit = diskLimit
        options.highWatermark = highWatermark
        options.lowWatermark = lowWatermark
        options.durability = durability
        options.evict = evict
        options.evictIdle = evictIdle
        return options
    }
}

enum LocalDirectory {
    /// `--dir`, else `$XDG_STATE_HOME/dcp`, else `~/.local/state/dcp`.
    static func resolve(_ path: String?) throws(ServiceError) -> LocalClusterDirectory {
        if let path { return try LocalClusterDirectory(path: path) }
        if let state = EnvironmentVariable.value("XDG_STATE_HOME") {
            return try LocalClusterDirectory(path: state + "/dcp")
        }
        guard let home = EnvironmentVariable.value("HOME") else {
            throw ServiceError(
                .invalidConfiguration, "Neither HOME nor XDG_STATE_HOME is set; give a directory with --dir.")
        }
        return try LocalClusterDirectory(path: home + "/.local/state/dcp")
    }
}

/// Ready: every rank is registered, all ranks of a head group are connected, and all hold the same data.
let clusterIsReady: LocalCluster.ReadyCheck = { endpoint async throws(ServiceError) in
    while true {
        do throws(ServiceError) {
            // The longest that a coordinator waits with its answer.
            let cluster = try await Cluster.connectWhenReady(to: Endpoint(endpoint), wait: .seconds(600))
            return await cluster.close()
        } catch {
            // The deadline is the caller's, who cancels this task.
            guard [.notReady, .unreachable].contains(error.code), !Task.isCancelled else { throw error }
        }
    }
}
