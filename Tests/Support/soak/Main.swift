// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import DCPClient
import DCPConsole
import DCPCore
import DCPLocalCluster
import DCPTestKit
import DCPTransport
import DCPWire
import Foundation
import Glibc

@main
struct Soak: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "dcp-soak",
        abstract: "Kills the daemons of a cluster again and again under clients that check every answer.",
        discussion: """
            Starts real daemons, lets clients prefill, decode, fork, truncate and close, and meanwhile sends SIGKILL at \
            random moments and at named fail points, SIGSTOP beyond the lease, fills the disk of one rank (as root), loses, \
            doubles and delays frames between ranks, and brings copies of stores, in the place of the original and beside \
            it. Clients die in the middle and have successors, or are overruled by others. Every answer must have the bits of an undisturbed run, every \
            acknowledged commit must be there, and at the end every stored byte must be right.

            EXAMPLE
              dcp-soak --duration 2m
              dcp-soak --duration 20s --seed 42 --verbose
              dcp-soak --duration 15m --idle 20000

            EXIT STATUS
              0   all was right
              1   something was wrong; the cluster's directory is kept
            """)

    @Option(help: ArgumentHelp("How long to disturb.", valueName: "duration"))
    var duration: String = "2m"

    @Option(help: "Replays a schedule. Default: a random one, which is printed.")
    var seed: UInt64?

    @Option(help: "Clients at the same time.")
    var clients: Int = 3

    @Option(
        help: ArgumentHelp(
            "Sequences that nobody touches meanwhile. The ranks' memory must not grow then.", valueName: "count"))
    var idle: Int = 0

    @Flag(help: "Have an older copy of a store accepted half-way, untold. The run must fail: it tests the soak.")
    var sabotage = false

    @Flag(help: "Say what is done to the cluster, on standard error.")
    var verbose = false

    @Flag(help: "Print JSON.")
    var json = false

    func run() async throws {
        signal(SIGPIPE, SIG_IGN)
        let length = try DurationFormat.parse(duration)
        let seed = seed ?? UInt64.random(in: 1...UInt64(UInt32.max))
        say("DCP_SEED=\(seed)")
        let directory = TemporaryDirectory()
        let tally = Tally()
        let start = ContinuousClock.now
        do {
            try await SoakRun(
                seed: seed, directory: directory.path, tally: tally, clients: clients, idle: idle,
                isVerbose: verbose, isSabotaged: sabotage
            )
            .run(for: length)
        } catch {
            tally.fail("\(error)")
        }
        tally.update {
            $0.seed = seed
            $0.seconds = (ContinuousClock.now - start) / .seconds(1)
        }
        let counts = tally.counts
        print(json ? try JSONOutput.string(counts) : counts.text, terminator: "")
        guard counts.failures.isEmpty else {
            // The logs are what a failure is explained by.
            let kept = "\(NSTemporaryDirectory())/dcp-soak-\(seed)"
            try? FileManager.default.removeItem(atPath: kept)
            try? FileManager.default.moveItem(atPath: directory.path, toPath: kept)
            say("FAILED; the cluster is in \(kept). Repeat with --seed \(seed).")
            throw ExitCode(1)
        }
    }
}

func say(_ text: String) { FileHandle.standardError.write(Data("dcp-soak: \(text)\n".utf8)) }

/// One cluster, its clients and its chaos.
struct SoakRun {
    let seed: UInt64
    let directory: String
    let tally: Tally
    let clients: Int
    let idle: Int
    let isVerbose: Bool
    let isSabotaged: Bool

    private static let model = "soak"
    /// Outages may overlap; this is far beyond what one takes, so a longer one is a failure.
    private static let patience = Duration.seconds(120)
    private static let diskByteCount = 64 << 20
    private static let diskByteCountOfIdle = 8192

    func run(for length: Duration) async throws {
        var random = SeededGenerator(seed: seed)
        let shapes: [(ranks: Int, groups: Int, interleave: Int, exchange: Exchange)] = [
            (3, 1, 4, .allToAll), (4, 2, 1, .allToAll), (2, 1, 1, .allGatherReduceScatter), (3, 1, 1, .allToAll),
        ]
        let chosen = shapes.randomElement(using: &random)!
        let shape = try ClusterShape(
            ranks: chosen.ranks, headGroups: chosen.groups, interleave: chosen.interleave, blockTokens: 16,
            exchange: chosen.exchange)
        let kvFormat = CacheFormat.allCases.randomElement(using: &random)!
        let model = try ModelDescription.ofSoak(kvFormat)
        let durability = ["always", "everysec", "never"].randomElement(using: &random)!
        let stories = Story.tree(model, count: 6, length: 300, &random)
        tally.update {
            $0.cluster =
                "\(chosen.ranks) ranks, \(chosen.groups) head groups, interleave \(chosen.interleave), "
                + "\(chosen.exchange.name), durability \(durability), a cache of \(kvFormat.name)"
        }
        let place = try LocalClusterDirectory(path: "\(directory)/c")
        try FileManager.default.createDirectory(atPath: place.path, withIntermediateDirectories: true)
        let disk = SmallDisk(
            at: "\(directory)/disk", byteCount: Self.diskByteCount + idle * Self.diskByteCountOfIdle)
        defer { disk?.unmount() }
        if let disk {
            symlink(disk.path, place.data(of: .rank(RankIndex(0))))
        } else {
            say("not root: no disk is filled")
        }
        var options = LocalClusterOptions()
        (options.ranks, options.headGroups, options.interleave) = (chosen.ranks, chosen.groups, chosen.interleave)
        (options.blockTokens, options.exchange, options.threadsPerRank) = (16, chosen.exchange, 1)
        // What an older store that is accepted still holds of closed sequences is dropped before the end.
        options.coordinatorArguments = ["--lease", "\(Chaos.lease / .seconds(1))", "--unknown-grace", "0"]
        options.rankArguments = ["--durability", durability, "--memory-idle", "2"]
        // Beside the ranks' own: memory is passed there.
        func proxySocket(_ rank: RankIndex) -> String { "\(place.path)/proxy-\(rank.value).sock" }
        for rank in shape.allRanks {
            options.advertisedEndpoints[rank] = "unix:\(proxySocket(rank))"
        }
        let proxies = try shape.allRanks.map { rank in
            try FaultProxy(
                listen: proxySocket(rank), target: place.socket(of: .rank(rank)),
                seed: random.next())
        }
        let local = try LocalCluster.start(in: place, options: options)
        do {
            let conversations = try await disturb(local, proxies, disk, stories, for: length, &random)
            if !tally.hasFailed { try await waitUntilDropped(allBut: conversations.count, local) }
            for report in await local.stop(deadline: .seconds(60)) {
                guard case .stopped(.status(0)) = report.outcome else {
                    throw SoakFailure("\(report.role) at the end: \(report.outcome)")
                }
            }
            tally.update { $0.proxiedFramesDisturbed = proxies.reduce(0) { $0 + $1.disturbedFrames } }
            guard !tally.hasFailed else { return }
            let compared = try StoreCheck.run(
                local: local, shape: shape, stories: stories, conversations: conversations)
            tally.update { $0.storedTokensCompared = compared }
        } catch {
            await local.stop(deadline: .seconds(10))
            throw error
        }
    }

    /// An older store that was accepted holds sequences that were closed since; the coordinator drops them.
    private func waitUntilDropped(allBut count: Int, _ local: LocalCluster) async throws {
        let deadline = ContinuousClock.now + Self.patience
        let cluster = try await Cluster.connectWhenReady(to: Endpoint(local.coordinatorEndpoint), wait: Self.patience)
        while true {
            let held = try await cluster.rankStatuses().map { Int($0.sequences) }
            if held.allSatisfy({ $0 == count }) { break }
            guard ContinuousClock.now < deadline else {
                throw SoakFailure("The ranks hold \(held) sequences, of which \(count) are open")
            }
            // Between two questions: nobody is told when a sequence is dropped.
            try await Task.sleep(for: .milliseconds(20))
        }
        await cluster.close()
    }

    /// Lets clients work while the cluster is disturbed.
    /// - Returns: what they hold at the end.
    private func disturb(
        _ local: LocalCluster, _ proxies: [FaultProxy], _ disk: SmallDisk?, _ stories: [Story], for length: Duration,
        _ random: inout SeededGenerator
    ) async throws -> [Conversation] {
        let endpoint = try Endpoint(local.coordinatorEndpoint)
        let timeouts = Cluster.Timeouts(step: .seconds(4), request: .seconds(4))
        let cluster = try await Cluster.connectWhenReady(to: endpoint, wait: .seconds(60), timeouts: timeouts)
        let expected = try await Undisturbed.play(stories, model: Self.model, on: cluster)
        for sequence in try await cluster.sequences() { try await cluster.closeSequence(sequence.record.name) }
        let crowd = try await IdleCrowd.open(idle, playing: stories, model: Self.model, on: cluster)
        await cluster.close()

        let end = ContinuousClock.now + length
        let (pause, accepted) = (Pause(clients: clients), AcceptedStores())
        var chaos = Chaos(
            local: local, proxies: proxies, disk: disk, tally: tally, pause: pause, accepted: accepted,
            seed: random.next(), isVerbose: isVerbose, memory: idle > 0 ? MemoryWatch(length: length) : nil)
        let seeds = (0..<clients).map { _ in random.next() }
        let (tally, isDone) = (tally, EndSignal())
        let settings = SoakClientSettings(
            coordinator: endpoint, timeouts: timeouts, patience: Self.patience, stories: stories, expected: expected,
            model: Self.model, tally: tally, accepted: accepted)
        return try await withThrowingTaskGroup(of: [Conversation].self) { group in
            for (index, seed) in seeds.enumerated() {
                group.addTask {
                    do {
                        var client = try await SoakClient(name: "client-\(index)", settings: settings, seed: seed)
                        while !isDone.isSet, !tally.hasFailed {
                            await pause.pass()
                            try await client.act()
                        }
                        await pause.leave()
                        if !tally.hasFailed { try await client.finish() }
                        await client.cluster.close()
                        return client.conversations
                    } catch {
                        tally.fail("client-\(index): \(error)")
                        await pause.leave()
                        return []
                    }
                }
            }
            let outcome: Result<Void, any Error>
            do {
                if isSabotaged {
                    let sabotage = try await Sabotage(local)
                    try await chaos.run(until: .now + length / 2)
                    try await sabotage.strike()
                }
                try await chaos.run(until: end)
                if let memory = chaos.memory {
                    tally.update { $0.memoryMiB = memory.most.map { $0 >> 20 } }
                    if let failure = memory.failure { tally.fail(failure) }
                }
                outcome = .success(())
            } catch {
                tally.fail("\(error)")
                outcome = .failure(error)
            }
            isDone.set()
            if case .failure = outcome { group.cancelAll() }
            return try await group.reduce(into: crowd) { $0 += $1 }
        }
    }
}
