// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import DCPConsole
import DCPCore
import DCPSimulator
import Glibc

struct Options: ParsableArguments {
    @Option(help: ArgumentHelp("Script entries of all clients of a seed together.", valueName: "n"))
    var steps = 60

    @Option(help: ArgumentHelp("Directory for the stores. /dev/shm is fastest.", valueName: "directory"))
    var dir = "/dev/shm"

    @Option(
        help: ArgumentHelp(
            "Break a rule on purpose: commit, epoch, append, window, sink, match or turns.", valueName: "rule"))
    var canary: String?

    func batch() throws -> Batch {
        guard steps > 0 else { throw ValidationError("--steps must be at least 1.") }
        let rule = canary.map { BrokenRule(rawValue: $0) }
        if case .some(nil) = rule {
            let names = BrokenRule.allCases.map(\.rawValue).joined(separator: ", ")
            throw ValidationError("--canary \(canary ?? "") is not one of \(names).")
        }
        do throws(ServiceError) {
            return try Batch(in: dir, steps: steps, canary: rule ?? nil)
        } catch {
            throw ValidationError(error.message)
        }
    }

    func repeatCommand(_ seed: UInt64) -> String {
        "dcp-simulator replay --seed \(seed) --steps \(steps)" + (canary.map { " --canary \($0)" } ?? "")
    }
}

struct Run: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Run one seed or many and print a summary.",
        discussion: """
            Stops at the first broken rule and prints the command that reproduces it, unless --keep-going is given.

            EXAMPLE
              dcp-simulator run --seeds 1000
              dcp-simulator run --seed 42 --seeds 10 --json
            """)

    @Option(help: ArgumentHelp("The seed, or the first of several. Default: a random one.", valueName: "n"))
    var seed: UInt64?

    @Option(help: ArgumentHelp("How many consecutive seeds.", valueName: "n"))
    var seeds = 1

    @Flag(help: "Continue after a seed that broke a rule.")
    var keepGoing = false

    @Flag(help: "Print one JSON document.")
    var json = false

    @OptionGroup var options: Options

    func run() throws {
        guard seeds > 0 else { throw ValidationError("--seeds must be at least 1.") }
        let first = seed ?? UInt64.random(in: 1...UInt64(UInt32.max))
        let batch = try options.batch()
        defer { batch.close() }
        let clock = ContinuousClock()
        let began = clock.now
        var summary = Summary(seed: first, steps: options.steps)
        for number in 0..<UInt64(seeds) {
            Crash.seed = first + number
            let outcome = try batch.run(seed: first + number)
            summary.add(outcome, options.repeatCommand(outcome.seed))
            if let broken = summary.broken.last, broken.seed == outcome.seed {
                complain("seed \(broken.seed): \(broken.rule): \(broken.message)\n  \(broken.repeat)\n")
                if !keepGoing { break }
            }
        }
        summary.seconds = (clock.now - began) / .seconds(1)
        try StandardOutput.write(json ? JSONOutput.string(summary) : summary.text)
        if !summary.broken.isEmpty { throw ExitCode(ExitStatus.bug.rawValue) }
    }
}

struct Replay: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Run one seed and print its trace: time, process, event.",
        discussion: """
            The last line has the trace's hash, which `run` also prints for the same seed.

            EXAMPLE
              dcp-simulator replay --seed 42 | grep rank-1
            """)

    @Option(help: ArgumentHelp("The seed.", valueName: "n"))
    var seed: UInt64

    @Flag(help: "Print the last line as a JSON document, and nothing else.")
    var json = false

    @OptionGroup var options: Options

    func run() throws {
        let batch = try options.batch()
        defer { batch.close() }
        Crash.seed = seed
        let outcome = try batch.run(seed: seed, print: json ? nil : { print($0) })
        var summary = Summary(seed: seed, steps: options.steps)
        summary.add(outcome, options.repeatCommand(seed))
        // The trace is still in a buffer, and comes before its summary.
        fflush(nil)
        try StandardOutput.write(json ? JSONOutput.string(summary) : summary.text)
        if !summary.broken.isEmpty { throw ExitCode(ExitStatus.bug.rawValue) }
    }
}

/// To stderr, in one write: also from a signal handler.
func complain(_ text: String) { _ = text.withCString { write(STDERR_FILENO, $0, text.utf8.count) } }
