// SPDX-License-Identifier: Apache-2.0

/// How often something is measured: as often as asked, or until the median is steady enough for its cost.
public struct Repetition: Sendable {
    /// `--runs`; nil measures for `seconds`, but at least `runsMin` and at most `runsMax` times.
    public var runs: Int?
    public var seconds: Double
    public var runsMin: Int
    public var runsMax: Int

    public init(runs: Int?, seconds: Double = 2, runsMin: Int = 9, runsMax: Int = 101) {
        self.runs = runs
        self.seconds = seconds
        self.runsMin = runsMin
        self.runsMax = runsMax
    }

    /// Runs once to warm up, then measures some things one after the other, again and again, so that what drifts (clock
    /// frequency, other processes) meets them alike.
    ///
    /// - Parameters:
    ///   - interruption: asked before every run.
    ///   - bodies: each does its work once.
    /// - Returns: for each body its durations, seconds.
    public func measure(
        until interruption: Interruption, _ bodies: [() throws -> Void]
    ) throws -> [Samples] {
        try measure(until: interruption, timed: bodies.map { body in { try Stopwatch.seconds(body) } })
    }

    /// As above, with bodies that time themselves: each returns what its work took, seconds.
    public func measure(
        until interruption: Interruption, timed bodies: [() throws -> Double]
    ) throws -> [Samples] {
        for body in bodies {
            try interruption.check()
            _ = try body()
        }
        var found = [[Double]](repeating: [], count: bodies.count)
        let start = ContinuousClock.now
        while wantsAnother(after: found.first?.count ?? 0, elapsed: (ContinuousClock.now - start).inSeconds) {
            for (index, body) in bodies.enumerated() {
                try interruption.check()
                found[index].append(try body())
            }
        }
        return found.map { Samples($0) }
    }

    package func wantsAnother(after done: Int, elapsed: Double) -> Bool {
        if let runs { return done < runs }
        return done < runsMin || (done < runsMax && elapsed < seconds)
    }
}

enum Stopwatch {
    static func seconds(_ body: () throws -> Void) rethrows -> Double {
        let start = ContinuousClock.now
        try body()
        return (ContinuousClock.now - start).inSeconds
    }
}

extension Duration {
    var inSeconds: Double { Double(components.seconds) + Double(components.attoseconds) / 1e18 }
}
