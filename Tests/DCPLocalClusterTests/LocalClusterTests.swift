// SPDX-License-Identifier: Apache-2.0

import DCPCore
import DCPLocalCluster
import DCPTestKit
import Foundation
import Testing

/// Shell scripts stand in for the daemons: the tests cover how processes are handled, not what they do.
@Suite("local clusters", .serialized)
final class LocalClusterTests {
    private let temporary: TemporaryDirectory
    private let events: EventPipe
    private let directory: LocalClusterDirectory
    private var options = LocalClusterOptions()

    init() throws {
        temporary = TemporaryDirectory()
        events = try EventPipe(temporary.path("events"))
        directory = try LocalClusterDirectory(path: temporary.path("cluster"))
        options.binDirectory = temporary.path("bin")
        options.environment = ["DCP_TEST_EVENTS": events.path]
        options.ranks = 2
        options.threadsPerRank = 3
        let run = "echo $(basename $0) $* > $DCP_TEST_EVENTS; exec cat"
        try script("dcp-coordinator", run)
        try script("dcp-rank", run)
    }

    private func script(_ name: String, _ text: String) throws {
        try FileManager.default.createDirectory(atPath: temporary.path("bin"), withIntermediateDirectories: true)
        let path = temporary.path("bin/\(name)")
        let draft = temporary.path("\(name).draft")
        try Data("#!/bin/sh\n\(text)\n".utf8).write(to: URL(filePath: draft))
        // By a separate process: a file that this one has open for writing, or a child of another test that it is just
        // starting, cannot be executed (ETXTBSY).
        let install = try Process.run(URL(filePath: "/usr/bin/install"), arguments: ["-m", "755", draft, path])
        install.waitUntilExit()
        try #require(install.terminationStatus == 0)
    }

    /// Starts the cluster and waits until every script runs.
    private func start() throws -> (cluster: LocalCluster, commands: [String]) {
        let cluster = try LocalCluster.start(in: directory, options: options)
        return (cluster, cluster.roles.map { _ in events.next() }.sorted())
    }

    /// A check that is never satisfied and ends with its task.
    private static let never: LocalCluster.ReadyCheck = { _ in
        let (stream, continuation) = AsyncStream<Void>.makeStream()
        await withTaskCancellationHandler {
            for await _ in stream {}
        } onCancel: {
            continuation.finish()
        }
    }

    @Test("up starts coordinator and ranks with their flags; a second up is refused; down stops them")
    func lifecycle() async throws {
        let (cluster, commands) = try start()
        let d = directory.path
        #expect(
            commands == [
                "dcp-coordinator --state \(d)/coordinator --listen unix:\(d)/coordinator.sock --ranks 2 --head-groups 1 "
                    + "--interleave 1 --block-tokens 64 --exchange a2a --http unix:\(d)/coordinator.http "
                    + "--canary-interval off --config /dev/null --stop-on-stdin-eof",
                "dcp-rank --rank 0 --store \(d)/rank-0 --listen unix:\(d)/rank-0.sock --coordinator "
                    + "unix:\(d)/coordinator.sock --threads 3 --http unix:\(d)/rank-0.http "
                    + "--canary-interval off --config /dev/null --stop-on-stdin-eof",
                "dcp-rank --rank 1 --store \(d)/rank-1 --listen unix:\(d)/rank-1.sock --coordinator "
                    + "unix:\(d)/coordinator.sock --threads 3 --http unix:\(d)/rank-1.http "
                    + "--canary-interval off --config /dev/null --stop-on-stdin-eof",
            ])
        try await cluster.waitUntilReady(deadline: .seconds(60)) { endpoint in
            #expect(endpoint == "unix:\(d)/coordinator.sock")
        }
        let second = #expect(throws: ServiceError.self) { try LocalCluster.start(in: directory, options: options) }
        #expect(second?.code == .conflict)
        #expect(second?.message.contains("(pid \(getpid()))") == true)
        let found = try #require(try LocalCluster.find(in: directory))
        #expect(found.running.map(\.role) == cluster.roles)
        #expect(found.running.map(\.process.pid) == cluster.running.map(\.process.pid))

        let reports = await found.stop(deadline: .seconds(60))
        #expect(reports.map(\.role) == cluster.roles)
        #expect(reports.allSatisfy { if case .stopped = $0.outcome { true } else { false } })
        #expect(cluster.running.isEmpty)
        #expect(try LocalCluster.find(in: directory) == nil)
        #expect(FileManager.default.fileExists(atPath: directory.pidsFile) == false)
    }

    @Test("the first up decides the shape: another one is refused naming both, none takes what is there")
    func configuration() async throws {
        options.interleave = 4
        do {
            let (cluster, _) = try start()
            await cluster.stop(deadline: .seconds(60))
        }
        options.ranks = 3
        options.interleave = nil
        options.exchange = .allGatherReduceScatter
        let error = #expect(throws: ServiceError.self) { try LocalCluster.start(in: directory, options: options) }
        #expect(error?.code == .conflict)
        #expect(error?.message.contains("--ranks 2, not 3; --exchange a2a, not ag-rs") == true)
        options.ranks = nil
        options.exchange = nil
        let (cluster, _) = try start()
        #expect(cluster.configuration.ranks == 2 && cluster.configuration.interleave == 4)
        await cluster.stop(deadline: .seconds(60))
    }

    @Test("a rank that exits early is reported with the last lines of its log")
    func earlyExit() async throws {
        try script(
            "dcp-rank",
            "echo up > $DCP_TEST_EVENTS; [ $2 = 1 ] && { echo 'the store is of rank 0' >&2; exit 65; }; exec cat")
        let (cluster, _) = try start()
        let error = await #expect(throws: ServiceError.self) {
            try await cluster.waitUntilReady(deadline: .seconds(600), Self.never)
        }
        #expect(error?.code == .invalidConfiguration && error?.rank == RankIndex(1))
        #expect(error?.message.contains("rank 1 exited with status 65") == true)
        #expect(error?.message.contains("\(directory.path)/logs/rank-1.log:\n  the store is of rank 0") == true)
        #expect(cluster.running.map(\.role) == [.coordinator, .rank(RankIndex(0))])
        await cluster.stop(deadline: .seconds(60))
    }

    @Test("options that a daemon refuses are not kept, nor is the store of a first start; a restored store is")
    func refusedOptions() async throws {
        try script(
            "dcp-rank", "mkdir -p $4; echo up > $DCP_TEST_EVENTS; case $* in *200XB*) exit 64;; esac; exec cat")
        try FileManager.default.createDirectory(
            atPath: directory.data(of: .rank(RankIndex(0))), withIntermediateDirectories: true)
        func refuse() async throws {
            options.disk.diskLimit = "200XB"
            let (cluster, _) = try start()
            await #expect(throws: ServiceError.self) {
                try await cluster.waitUntilReady(deadline: .seconds(600), Self.never)
            }
            await cluster.stop(deadline: .seconds(60))
            options.disk.diskLimit = nil
        }
        try await refuse()
        #expect(!directory.isCluster)
        #expect(FileManager.default.fileExists(atPath: directory.data(of: .rank(RankIndex(0)))))
        #expect(!FileManager.default.fileExists(atPath: directory.data(of: .rank(RankIndex(1)))))

        options.ranks = 3
        options.disk.durability = "always"
        let (cluster, _) = try start()
        try await cluster.waitUntilReady(deadline: .seconds(60)) { _ in }
        await cluster.stop(deadline: .seconds(60))
        let kept = try directory.readConfiguration()
        #expect(kept?.ranks == 3 && kept?.disk.durability == "always")
        try await refuse()
        #expect(try directory.readConfiguration() == kept)
        #expect(FileManager.default.fileExists(atPath: directory.data(of: .rank(RankIndex(2)))))
    }

    @Test("a rank that died is restarted once, by the up that has the directory")
    func restartMissing() async throws {
        try script("dcp-coordinator", "echo $* > $DCP_TEST_EVENTS; exec tail -f /dev/null")
        try script("dcp-rank", "echo $* > $DCP_TEST_EVENTS; exec tail -f /dev/null")
        options.detached = true
        var started: LocalCluster? = try start().cluster
        try await started?.killRank(1)
        let held = #expect(throws: ServiceError.self) {
            try LocalCluster.restartMissing(in: directory, options: options)
        }
        #expect(held?.code == .conflict && held?.message.contains("(pid \(getpid()))") == true)
        #expect(started?.running.count == 2)
        started = nil
        let restarted = try #require(try LocalCluster.restartMissing(in: directory, options: options))
        #expect(restarted.roles == [.rank(RankIndex(1))] && events.next().contains("--rank 1 "))
        #expect(try LocalCluster.restartMissing(in: directory, options: options) == nil)
        #expect(await restarted.cluster.stop(deadline: .seconds(60)).count == 3)
    }

    @Test("the deadline and the check's own error end the wait")
    func deadline() async throws {
        let (cluster, _) = try start()
        let late = await #expect(throws: ServiceError.self) {
            try await cluster.waitUntilReady(deadline: .milliseconds(1), Self.never)
        }
        #expect(late?.code == .deadlineExceeded)
        let never = Self.never
        let waiting = Task.detached { try await cluster.waitUntilReady(deadline: .seconds(600), never) }
        waiting.cancel()
        let interrupted = await #expect(throws: ServiceError.self) { try await waiting.value }
        #expect(interrupted?.code == .stepAborted)
        let refused = await #expect(throws: ServiceError.self) {
            try await cluster.waitUntilReady(deadline: .seconds(600)) { _ throws(ServiceError) in
                throw ServiceError(.incompatible, "version 2, not 1")
            }
        }
        #expect(refused?.code == .incompatible)
        await cluster.stop(deadline: .seconds(60))
    }

    @Test("a rank is killed and started again on its store")
    func killAndStart() async throws {
        let (cluster, _) = try start()
        try await cluster.killRank(1)
        #expect(cluster.daemon(.rank(RankIndex(1)))?.exit == .signal(SIGKILL))
        #expect(try LocalCluster.find(in: directory)?.running.map(\.role) == [.coordinator, .rank(RankIndex(0))])
        #expect(throws: ServiceError.self) { try cluster.startRank(0) }
        #expect(throws: ServiceError.self) { try cluster.startRank(2) }
        try cluster.startRank(1)
        #expect(events.next().contains("--store \(directory.path)/rank-1 "))
        #expect(cluster.running.count == 3)
        let watching = Task { try await cluster.firstExit() }
        try await cluster.kill(.coordinator)
        #expect(try await watching.value?.role == .coordinator)
        await cluster.stop(deadline: .seconds(60))
    }

    @Test("a pids.json of another boot, or with a reused pid, names no process")
    func stalePIDs() async throws {
        let (cluster, _) = try start()
        let text = try String(contentsOfFile: directory.pidsFile, encoding: .utf8)
        let coordinator = try #require(cluster.daemon(.coordinator)).identity
        let reused = text.replacing("\(coordinator.startTime)", with: "\(coordinator.startTime + 1)")
        try Data(reused.utf8).write(to: URL(filePath: directory.pidsFile))
        #expect(try LocalCluster.find(in: directory)?.running.contains { $0.role == .coordinator } != true)
        let boot = try String(contentsOfFile: "/proc/sys/kernel/random/boot_id", encoding: .utf8).prefix(36)
        try Data(text.replacing(boot, with: "another").utf8).write(to: URL(filePath: directory.pidsFile))
        #expect(try LocalCluster.find(in: directory) == nil)
        try Data("{".utf8).write(to: URL(filePath: directory.pidsFile))
        let damaged = #expect(throws: ServiceError.self) { try LocalCluster.find(in: directory) }
        #expect(damaged?.message.contains("pids.json cannot be parsed") == true)
        #expect(cluster.running.count == 3)
        await cluster.stop(deadline: .seconds(60))
    }

    @Test("TCP ports are distinct, and the same again when they are free")
    func ports() async throws {
        options.transport = .tcp
        var endpoints: [[String]] = []
        for _ in 0..<2 {
            let (cluster, commands) = try start()
            endpoints.append([cluster.coordinatorEndpoint] + cluster.rankEndpoints)
            #expect(commands.allSatisfy { $0.contains("--listen tcp:127.0.0.1:") })
            #expect(commands.allSatisfy { $0.contains("--insecure-loopback-only") })
            await cluster.stop(deadline: .seconds(60))
        }
        #expect(Set(endpoints[0]).count == 3)
        #expect(endpoints[0] == endpoints[1])
    }

    @Test("a detached cluster has no lifeline and outlives its object")
    func detached() async throws {
        try script("dcp-coordinator", "echo $* > $DCP_TEST_EVENTS; exec tail -f /dev/null")
        try script("dcp-rank", "echo $* > $DCP_TEST_EVENTS; exec tail -f /dev/null")
        options.detached = true
        do {
            let (_, commands) = try start()
            #expect(commands.allSatisfy { !$0.contains("--stop-on-stdin-eof") })
        }
        let running = #expect(throws: ServiceError.self) { try LocalCluster.start(in: directory, options: options) }
        #expect(running?.message.contains("is already running") == true)
        let found = try #require(try LocalCluster.find(in: directory))
        #expect(found.running.count == 3)
        #expect(await found.stop(deadline: .seconds(60)).count == 3)
    }

    @Test("unusable executables, socket paths and directories are refused before anything is started")
    func refusals() throws {
        let long = try LocalClusterDirectory(path: temporary.path(String(repeating: "x", count: 100)))
        let path = #expect(throws: ServiceError.self) { try LocalCluster.start(in: long, options: options) }
        #expect(path?.message.contains("more than the 107 of a Unix address; use --tcp, or a shorter --dir") == true)
        #expect(long.isCluster == false)
        options.binDirectory = temporary.path("nowhere")
        let missing = #expect(throws: ServiceError.self) { try LocalCluster.start(in: directory, options: options) }
        #expect(missing?.message.contains("nowhere/dcp-coordinator cannot be run") == true)
        #expect(FileManager.default.fileExists(atPath: directory.path) == false)
        let none = #expect(throws: ServiceError.self) { try LocalCluster.find(in: directory) }
        #expect(none?.code == .invalidRequest)
        #expect(throws: ServiceError.self) { try LocalClusterDirectory(path: "") }
    }

    @Test("an ephemeral cluster is stopped and removed, also after a failure")
    func ephemeral() async throws {
        struct Failure: Error {}
        var path = ""
        var identities: [ProcessIdentity] = []
        await #expect(throws: Failure.self) {
            try await LocalCluster.withEphemeral(options: options, ready: { _ in }) { cluster in
                path = cluster.directory.path
                identities = cluster.running.map(\.process.identity)
                throw Failure()
            }
        }
        #expect(identities.count == 3 && !identities.contains { $0.isRunning })
        #expect(!path.isEmpty && !FileManager.default.fileExists(atPath: path))
    }

    @Test("daemons stop when the process that started them is killed")
    func parentKilled() async throws {
        let path = directory.path
        let bin = temporary.path("bin")
        let pipe = events.path
        await #expect(processExitsWith: .signal(SIGKILL)) {
            [path = path as String, bin = bin as String, pipe = pipe as String] in
            var options = LocalClusterOptions()
            options.ranks = 2
            options.binDirectory = bin
            options.environment = ["DCP_TEST_EVENTS": pipe]
            let cluster = try LocalCluster.start(in: LocalClusterDirectory(path: path), options: options)
            withExtendedLifetime(cluster) { _ = kill(getpid(), SIGKILL) }
        }
        for _ in 0..<3 { _ = events.next() }
        let left = try LocalCluster.find(in: directory)?.running ?? []
        for daemon in left { #expect(daemon.process.waitForExit(until: .now + .seconds(60)) != nil) }
    }
}
