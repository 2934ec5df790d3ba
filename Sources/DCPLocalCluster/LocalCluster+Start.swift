// SPDX-License-Identifier: Apache-2.0

public import DCPCore
internal import DCPFiles
internal import Foundation
internal import Glibc
internal import SystemPackage

/// Where the daemons' executables are.
struct DaemonExecutables: Sendable {
    let directory: String

    /// - Throws: `.invalidConfiguration` naming the executable that is missing and where it was looked for.
    init(binDirectory: String?) throws(ServiceError) {
        if let binDirectory = binDirectory ?? EnvironmentVariable.value("DCP_BIN_DIR") {
            directory = binDirectory
        } else {
            let running = (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")) ?? ""
            directory = FilePath(running).directory.string
        }
        for name in ["dcp-coordinator", "dcp-rank"] where access("\(directory)/\(name)", X_OK) != 0 {
            throw ServiceError(
                .invalidConfiguration,
                "\(directory)/\(name) cannot be run: \(systemMessage(errno)). Build all products (`swift build -c "
                    + "release`), or set DCP_BIN_DIR to the directory that holds dcp-coordinator and dcp-rank.")
        }
    }

    func path(of role: DaemonRole) -> String {
        directory + (role == .coordinator ? "/dcp-coordinator" : "/dcp-rank")
    }
}

extension LocalCluster {
    /// Starts the coordinator and all ranks, without waiting until they are ready. If one fails, the others are
    /// stopped.
    ///
    /// - Throws: `.conflict` when the cluster runs already or was created with other options; `.invalidConfiguration`
    ///   when it cannot be run here.
    public static func start(
        in directory: LocalClusterDirectory, options: LocalClusterOptions
    ) throws(ServiceError) -> LocalCluster {
        let executables = try DaemonExecutables(binDirectory: options.binDirectory)
        try directory.create()
        let lock = try DirectoryLock(directory)
        let running = try attached(in: directory)
        if let (role, process) = running.min(by: { $0.value.pid < $1.value.pid }) {
            throw ServiceError(
                .conflict,
                "The cluster in \(directory.path) is already running (\(role), pid \(process.pid)); use it, or stop it "
                    + "with `dcpctl down --dir \(directory.path)`.")
        }
        let existing = try directory.readConfiguration()
        let configuration = try options.resolve(existing, directory: directory.path)
        var ports: LocalClusterPorts?
        if configuration.transport == .tcp {
            let last = directory.readPorts()
            let wishes = [last?.coordinator] + (0..<configuration.ranks).map { last?.ranks.dropFirst($0).first }
            let picked = try LoopbackPorts.pick(preferring: wishes)
            ports = LocalClusterPorts(coordinator: picked[0], ranks: Array(picked.dropFirst()))
        } else {
            try directory.checkSocketPaths(ranks: configuration.ranks)
        }
        let trial = StartTrial(in: directory, former: existing, configuration)
        if existing != configuration { try directory.writeConfiguration(configuration) }
        if let ports { try directory.writePorts(ports) }
        let cluster = LocalCluster(
            directory: directory, configuration: configuration, ports: ports, options: options,
            executables: executables, lock: lock, daemons: [:], trial: trial)
        do throws(ServiceError) {
            for role in cluster.roles { try cluster.start(role) }
        } catch {
            cluster.refuseStart()
            cluster.stopAndWait(deadline: .seconds(5))
            throw error
        }
        return cluster
    }

    /// The cluster running in a directory according to its pids.json, or nil.
    ///
    /// A process counts only if pid and start time match, so another process with an old pid is never touched.
    /// - Parameter options: for daemons started later through the result; its shape is not looked at.
    /// - Throws: `.invalidRequest` when the directory holds no cluster.
    public static func find(
        in directory: LocalClusterDirectory, options: LocalClusterOptions = LocalClusterOptions()
    ) throws(ServiceError) -> LocalCluster? {
        guard var configuration = try directory.readConfiguration() else {
            throw ServiceError(
                .invalidRequest,
                "There is no cluster in \(directory.path): it has no cluster.json. Give --dir the directory that "
                    + "`dcpctl up` used, or start a cluster there.")
        }
        let daemons = try attached(in: directory)
        if daemons.isEmpty { return nil }
        configuration.disk = options.disk.over(configuration.disk)
        var options = options
        // Found daemons have no lifeline to this process; neither has one that joins them.
        options.detached = true
        return LocalCluster(
            directory: directory, configuration: configuration,
            ports: configuration.transport == .tcp ? directory.readPorts() : nil, options: options, executables: nil,
            lock: nil, daemons: daemons)
    }

    /// Restarts the daemons that have ended in a cluster of which others run. Does not wait until they are ready.
    ///
    /// - Returns: the cluster, and which these are; nil if all of them run, or none, or the directory has no cluster.
    /// - Throws: `.conflict` while another `up` starts or runs the cluster.
    public static func restartMissing(
        in directory: LocalClusterDirectory, options: LocalClusterOptions
    ) throws(ServiceError) -> (cluster: LocalCluster, roles: [DaemonRole])? {
        guard directory.isCluster else { return nil }
        // Until pids.json is written: two at once would both start the same rank, and the file would name the one that
        // ends because the other has the store.
        let lock = try DirectoryLock(directory)
        defer { withExtendedLifetime(lock) {} }
        guard let cluster = try find(in: directory, options: options) else { return nil }
        let roles = try cluster.startMissing()
        return roles.isEmpty ? nil : (cluster, roles)
    }

    private static func attached(
        in directory: LocalClusterDirectory
    ) throws(ServiceError) -> [DaemonRole: DaemonProcess] {
        guard let recorded = try directory.readDaemons(), recorded.bootId == ProcessIdentity.bootID else { return [:] }
        var found: [DaemonRole: DaemonProcess] = [:]
        for entry in recorded.daemons {
            let role: DaemonRole
            if entry.name == "coordinator" {
                role = .coordinator
            } else if let index = UInt16(entry.name.dropFirst("rank-".count)) {
                role = .rank(RankIndex(index))
            } else {
                continue
            }
            found[role] = DaemonProcess.attach(
                name: role.description, identity: entry.process, logPath: directory.log(of: role))
        }
        return found
    }

    /// The command line of a daemon, without the executable.
    func arguments(of role: DaemonRole) -> [String] {
        var arguments: [String]
        switch role {
        case .coordinator:
            arguments = [
                "--state", directory.data(of: role), "--listen", coordinatorEndpoint,
                "--ranks", "\(configuration.ranks)", "--head-groups", "\(configuration.headGroups)",
                "--interleave", "\(configuration.interleave)", "--block-tokens", "\(configuration.blockTokens)",
                "--exchange", configuration.exchange,
            ]
        case .rank(let rank):
            let threads =
                options.threadsPerRank ?? max(1, ProcessInfo.processInfo.activeProcessorCount / configuration.ranks)
            arguments = [
                "--rank", "\(rank.value)", "--store", directory.data(of: role), "--listen", endpoint(of: role),
                "--coordinator", coordinatorEndpoint, "--threads", "\(threads)",
            ]
        }
        if case .rank(let rank) = role, let advertised = options.advertisedEndpoints[rank] {
            arguments += ["--advertise", advertised]
        }
        arguments += ["--http", directory.http(of: role), "--canary-interval", "off"]
        // A separate cluster: nothing is read from the host's configuration file.
        arguments += ["--config", "/dev/null"]
        arguments += configuration.disk.arguments(ofCoordinator: role == .coordinator)
        if configuration.transport == .tcp { arguments.append("--insecure-loopback-only") }
        if !options.detached { arguments.append("--stop-on-stdin-eof") }
        return arguments + (role == .coordinator ? options.coordinatorArguments : options.rankArguments)
    }
}
