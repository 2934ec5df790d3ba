// SPDX-License-Identifier: Apache-2.0

import DCPCore
import Synchronization

/// What the soak counts. Any thread.
final class Tally: Sendable {
    struct Counts: Encodable, Sendable {
        var seed: UInt64 = 0
        var cluster = ""
        var seconds = 0.0
        /// SIGKILLs that a daemon came back from, at random moments and at named fail points, by kind.
        var kills: [String: Int] = [:]
        /// What else was done to the cluster, by kind.
        var disturbances: [String: Int] = [:]
        var proxiedFramesDisturbed = 0
        /// Copies of stores where none belongs, by what became of them.
        var copies: [String: Int] = [:]
        /// Committed tokens that older stores which were accepted have cost.
        var tokensCut = 0
        /// Clients that ended in the middle and had successors, by where they ended.
        var interruptedClients: [String: Int] = [:]
        /// Clients that were told `claimed` after another had taken their sequence over, by what they asked for then.
        var overruledClients: [String: Int] = [:]
        var answersCompared = 0
        var commits = 0
        /// How often an acknowledged commit was found again after an outage.
        var commitsChecked = 0
        var forks = 0
        /// Sequences that were opened by their tokens, and how many tokens that saved.
        var matches = 0
        var tokensMatched = 0
        var truncations = 0
        var closings = 0
        var resumes = 0
        var longestOutageSeconds = 0.0
        /// From a kill to the cluster's being ready again, where that was waited for.
        var longestRecoverySeconds = 0.0
        var medianRecoverySeconds = 0.0
        var storedTokensCompared = 0
        /// The most that a rank had in each third of the time, where that was looked at.
        var memoryMiB: [Int] = []
        /// Errors that clients got over, by code.
        var errors: [String: Int] = [:]
        var failures: [String] = []

        var totalKills: Int { kills.values.reduce(0, +) }
    }

    private let state = Mutex((counts: Counts(), recoveries: [Double]()))

    func update(_ body: (inout Counts) -> Void) { state.withLock { body(&$0.counts) } }

    func recovered(in seconds: Double) { state.withLock { $0.recoveries.append(seconds) } }

    func fail(_ what: String) { state.withLock { $0.counts.failures.append(what) } }

    var hasFailed: Bool { state.withLock { !$0.counts.failures.isEmpty } }

    var counts: Counts {
        state.withLock { state in
            var counts = state.counts
            let sorted = state.recoveries.sorted()
            counts.longestRecoverySeconds = sorted.last ?? 0
            counts.medianRecoverySeconds = sorted.isEmpty ? 0 : sorted[sorted.count / 2]
            return counts
        }
    }
}

extension Tally.Counts {
    var text: String {
        func list(_ counts: [String: Int]) -> String {
            counts.sorted { $0.key < $1.key }.map { "\($0.value) \($0.key)" }.joined(separator: ", ")
        }
        let memory =
            memoryMiB.isEmpty
            ? ""
            : "Memory of a rank, at most, MiB in each third: \(memoryMiB.map(String.init).joined(separator: ", "))\n"
        func number(_ seconds: Double) -> String { "\((seconds * 1000).rounded() / 1000) s" }
        return """
            Seed \(seed): \(cluster), \(Int(seconds)) s
            Kills survived: \(totalKills) (\(list(kills)))
            Disturbances: \(list(disturbances)); \(proxiedFramesDisturbed) frames lost, doubled or delayed
            Copies of stores: \(list(copies)); \(tokensCut) committed tokens cut with accepted ones
            Clients interrupted: \(list(interruptedClients))
            Clients overruled: \(list(overruledClients))
            Answers equal to the bit: \(answersCompared)
            Commits: \(commits); found again after an outage: \(commitsChecked)
            Matches \(matches), of \(tokensMatched) tokens; forks \(forks), truncations \(truncations), closings \(closings)
            Resumes: \(resumes), longest outage \(number(longestOutageSeconds)); errors got over: \(list(errors))
            Recovery: median \(number(medianRecoverySeconds)), longest \(number(longestRecoverySeconds))
            Stored tokens equal to the byte at the end: \(storedTokensCompared)

            """ + memory + failures.map { "FAILED: \($0)\n" }.joined()
    }
}
