// SPDX-License-Identifier: Apache-2.0

import DCPSimulator

/// What a run of seeds came to, as text and as JSON.
struct Summary: Encodable {
    struct Broken: Encodable {
        var seed: UInt64
        var rule: String
        var message: String
        /// The command that shows it.
        var `repeat`: String
    }

    var seed: UInt64
    var steps: Int
    var seeds = 0
    var broken: [Broken] = []
    /// Of the last seed's trace.
    var traceHash = ""
    var events = 0
    var simulatedSeconds = 0.0
    var seconds = 0.0
    /// How often what happened.
    var counts: [String: Int] = [:]

    init(seed: UInt64, steps: Int) {
        self.seed = seed
        self.steps = steps
    }

    mutating func add(_ outcome: Outcome, _ command: String) {
        seeds += 1
        traceHash = String(outcome.traceHash, radix: 16)
        events += outcome.events
        simulatedSeconds += outcome.simulatedSeconds
        counts.merge(outcome.counts, uniquingKeysWith: +)
        if let violation = outcome.violation {
            broken.append(
                Broken(
                    seed: outcome.seed, rule: violation.rule.rawValue, message: violation.message, repeat: command))
        }
    }

    var text: String {
        let pace = seconds > 0 ? " in \(Int(seconds)) s, \(Int(Double(seeds) / seconds)) seeds/s" : ""
        var text =
            "\(seeds) seeds from \(seed), \(steps) steps each\(pace): \(events) events, "
            + "\(Int(simulatedSeconds)) simulated seconds\n"
        for (what, count) in counts.sorted(by: { $0.key < $1.key }) { text += "  \(what): \(count)\n" }
        text += "trace \(traceHash)\n"
        text += broken.isEmpty ? "every rule was kept\n" : "\(broken.count) seeds broke a rule\n"
        return text
    }
}
