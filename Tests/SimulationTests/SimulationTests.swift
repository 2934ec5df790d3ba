// SPDX-License-Identifier: Apache-2.0

import DCPTestKit
import Foundation
import Testing

/// Whole clusters in one thread, with faults. Each rule is stated in the article *Simulation*; `dcp-simulator replay`
/// shows what a seed did.
@Suite("simulation")
struct SimulationTests {
    /// Seeds that are the same in every run: 1 to this.
    private static let fixedSeeds = 120

    @Test("the fixed seeds keep every rule")
    func fixed() async throws {
        let outcome = try await Simulator.run("run", "--seed", "1", "--seeds", "\(Self.fixedSeeds)", "--json")
        #expect(outcome.status == 0, "\(outcome.messages)")
        let object = try outcome.object()
        #expect(object["seeds"] as? Int == Self.fixedSeeds)
        // That something happened: a simulation in which nothing goes wrong, or nothing is answered, keeps every rule.
        let counts = try #require(object["counts"] as? [String: Int])
        for what in [
            "step reply", "commit reply", "cut uncommitted reply", "epochs", "kill", "killCoordinator", "powerLoss",
            "stop", "pause",
            "partition", "halfPartition", "reset", "slow", "bitFlip", "tornPage", "fullDisk", "failedSync",
            "timeouts", "overcommits", "closed together", "steps with a window", "steps with sinks",
            "steps with values of the keys", "models of several kinds", "spilled blocks",
            "pieces dealt while others wait", "forks of uncommitted tokens", "backups", "restored backups", "twin",
            "older store refused", "older state refused", "directories adopted", "matches", "store in pieces",
            "payloads in shared memory", "kill soon", "steps that commit", "steps beyond the limits",
            "steps of queries alone",
        ] {
            #expect(counts[what] ?? 0 > 0, "no \(what) in \(counts)")
        }
    }

    /// Seeds that once broke a rule: the article's table says which, and what was wrong.
    @Test(
        "seeds that once found a bug keep every rule",
        arguments: [
            1, 2, 6, 15, 20, 24, 61, 65, 97, 300, 335, 490, 1453, 3114, 10956, 21026, 21575, 202_205, 502_564, 503_146,
            911_090,
        ])
    func found(seed: Int) async throws {
        let outcome = try await Simulator.run("run", "--seed", "\(seed)")
        #expect(outcome.status == 0, "\(outcome.messages)")
    }

    @Test("a new seed keeps every rule, too")
    func new() async throws {
        let seed = SeededGenerator.seed
        let outcome = try await Simulator.run("run", "--seed", "\(seed)", "--steps", "200")
        #expect(outcome.status == 0, "\(outcome.messages)")
    }

    @Test("a seed is one history: run and replay give the same hash, and other seeds others", arguments: [3, 7, 11])
    func deterministic(seed: Int) async throws {
        let first = try await Simulator.run("run", "--seed", "\(seed)", "--json").object()
        let again = try await Simulator.run("replay", "--seed", "\(seed)", "--json").object()
        let hash = try #require(first["trace_hash"] as? String)
        #expect(again["trace_hash"] as? String == hash)
        #expect(again["events"] as? Int == first["events"] as? Int)
        let trace = try await Simulator.run("replay", "--seed", "\(seed)")
        #expect(trace.data.contains("trace \(hash)\n"))
        #expect(trace.data.contains(" coordinator ") && trace.data.contains(" rank-0 "))
        let other = try await Simulator.run("run", "--seed", "\(seed + 1)", "--json").object()
        #expect(other["trace_hash"] as? String != hash)
    }

    /// A simulator that does not notice these notices nothing.
    @Test(
        "canary: a rank that breaks a rule is caught within 50 seeds",
        arguments: [
            // What was answered before it was appended shows in what the ranks hold, in what they then refuse, or in an
            // answer that lacks it. A commit that was not made shows in what a rank has committed, or in a match that finds less of it.
            ("commit", ["lost commit", "wrong prefix"]), ("epoch", ["two epochs"]),
            ("append", ["answered, not in place", "wrong refusal", "wrong answer"]),
            ("window", ["wrong answer"]), ("sink", ["wrong answer"]), ("match", ["wrong prefix"]),
            ("turns", ["unfair turns"]), ("message", ["endless wait"]),
        ])
    func canary(rule: String, expected: [String]) async throws {
        let outcome = try await Simulator.run("run", "--seed", "1", "--seeds", "50", "--canary", rule, "--json")
        #expect(outcome.status == 70, "\(outcome.messages)")
        let broken = try #require(try outcome.object()["broken"] as? [[String: Any]])
        let found = try #require(broken.first?["rule"] as? String)
        #expect(expected.contains(found), "\(broken)")
        let command = try #require(broken.first?["repeat"] as? String)
        #expect(command.contains("--canary \(rule)") && outcome.messages.contains(command))
        // The command shows it again.
        let words = command.split(separator: " ").dropFirst().map(String.init)
        let seed = try #require(words.firstIndex(of: "--seed").map { words[$0 + 1] })
        let replay = try await Simulator.run("replay", "--seed", seed, "--canary", rule)
        #expect(replay.status == 70 && replay.data.contains("VIOLATION \(found)"))
    }

    @Test(
        "a wrong command line ends with 64 and says what is wrong",
        arguments: [
            (["run", "--canary", "none"], "commit, epoch, append, window, sink"), (["run", "--seeds", "0"], "--seeds"),
            (["run", "--dir", "/nonexistent"], "/nonexistent"), (["replay"], "seed"),
        ])
    func usage(arguments: [String], word: String) async throws {
        let outcome = try await Simulator.run(arguments)
        #expect(outcome.status == 64)
        #expect(outcome.messages.contains(word) && outcome.data.isEmpty)
    }

    @Test("every command has help with an example", arguments: [[], ["run"], ["replay"]])
    func help(command: [String]) async throws {
        let outcome = try await Simulator.run(command + ["--help"])
        #expect(outcome.status == 0 && outcome.data.contains("EXAMPLE\n"))
    }
}
