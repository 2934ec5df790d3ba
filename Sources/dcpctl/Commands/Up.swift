// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import DCPConsole
import DCPCore
import DCPLocalCluster

struct Up: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Start a coordinator and ranks on this machine.",
        discussion: """
            Starts daemons with their files in one directory, waits until they are ready and prints how to reach them. \
            In a directory used before, the cluster starts with its sequences and, unless options are given, its \
            earlier options. If some daemons of a detached cluster are still running, the command restarts the others.

            Without --detach the command runs until Ctrl-C or `dcpctl down`, and stops the daemons when it exits.

            EXAMPLE
              dcpctl up --ranks 4 --dir ./cluster --detach
              dcpctl up --dir ./cluster --disk-limit 200GB --evict lru
              export DCP_COORDINATOR=unix:$PWD/cluster/coordinator.sock
            """)

    @Option(parsing: .unconditional, help: "How many ranks. Default: 4.")
    var ranks: Int?

    @OptionGroup var cluster: ClusterOptions
    @OptionGroup(title: "Disks") var disks: LocalDiskOptions

    @Option(
        help: ArgumentHelp(
            "Directory of stores, sockets and logs. Default: $XDG_STATE_HOME/dcp or ~/.local/state/dcp.",
            valueName: "directory"))
    var dir: String?

    @Flag(help: "Return when the cluster is ready, and leave the daemons running.")
    var detach = false

    @Option(help: ArgumentHelp("How long to wait until the cluster is ready.", valueName: "duration"))
    var wait: String = "60s"

    @OptionGroup var output: OutputOptions

    func run() async throws {
        try await execute {
            let wait = try DurationFormat.parse(wait)
            let directory = try LocalDirectory.resolve(dir)
            var options = cluster.options(ranks: ranks, detached: detach)
            options.disk = disks.options
            let (detach, wanted) = (detach, options)
            try await interruptible {
                if let (local, roles) = try LocalCluster.restartMissing(in: directory, options: wanted) {
                    // A detached cluster of which some daemons have died gets just these back.
                    printMessage("started again: " + roles.map(\.description).joined(separator: ", "))
                    try await local.waitUntilReady(deadline: wait, clusterIsReady)
                    try announce(local)
                    return
                }
                let local = try LocalCluster.start(in: directory, options: wanted)
                do {
                    try await local.waitUntilReady(deadline: wait, clusterIsReady)
                    try announce(local)
                    if !detach { try await stay(local) }
                } catch {
                    // A daemon exits with 0 only on request: `dcpctl down` came before the cluster was ready.
                    let isStopped = local.roles.contains { local.daemon($0)?.exit == .status(0) }
                    _ = await local.stop(deadline: .seconds(30))
                    guard isStopped, !detach, !Task.isCancelled else { throw error }
                }
            }
        }
    }

    private func announce(_ local: LocalCluster) throws {
        let view = ClusterView(
            coordinator: local.coordinatorEndpoint, ranks: local.rankEndpoints, directory: local.directory.path,
            logs: local.directory.logsDirectory)
        try output.print(view) {
            """
            The cluster is ready: \(view.ranks.count) ranks in \(view.directory), logs in \(view.logs).

              export DCP_COORDINATOR=\(ShellQuoting.quoted(view.coordinator))

            Try `dcpctl status`; stop it with `dcpctl down --dir \(ShellQuoting.quoted(view.directory))`.
            """
        }
    }

    /// Until a signal cancels the task, `dcpctl down` stops the daemons, or one of them ends by itself.
    private func stay(_ local: LocalCluster) async throws {
        while let (role, exit) = try await local.firstExit() {
            try Task.checkCancellation()
            if exit == .status(0) {
                _ = await local.stop(deadline: .seconds(30))
                return
            }
            printMessage("The \(role) ended (\(exit)); start it again with `dcpctl up` after this command has ended.")
            throw local.earlyExit(of: role)
        }
        throw CancellationError()
    }
}

struct ClusterView: Encodable {
    var coordinator: String
    var ranks: [String]
    var directory: String
    var logs: String
}

struct Down: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Stop the daemons that `dcpctl up` started.",
        discussion: """
            Each daemon finishes the steps in flight and closes its store. The next `dcpctl up` has the same sequences.

            EXAMPLE
              dcpctl down --dir ./cluster
            """)

    @Option(help: ArgumentHelp("The directory given to `dcpctl up`.", valueName: "directory"))
    var dir: String?

    @Option(help: ArgumentHelp("How long to wait before killing the daemons.", valueName: "duration"))
    var deadline: String = "30s"

    @OptionGroup var output: OutputOptions

    func run() async throws {
        try await execute {
            let deadline = try DurationFormat.parse(deadline)
            let directory = try LocalDirectory.resolve(dir)
            guard let local = try LocalCluster.find(in: directory) else {
                try output.print([StoppedView]()) { "No daemon is running in \(directory.path)." }
                return
            }
            let stopped = await local.stop(deadline: deadline).map {
                StoppedView(daemon: "\($0.role)", outcome: "\($0.outcome)")
            }
            try output.print(stopped) { stopped.map { "\($0.daemon): \($0.outcome)" }.joined(separator: "\n") }
        }
    }
}

struct StoppedView: Encodable {
    var daemon: String
    var outcome: String
}
