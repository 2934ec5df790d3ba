// SPDX-License-Identifier: Apache-2.0

internal import Glibc

/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): the same numbers for the same seed on every machine.
public struct SeededGenerator: RandomNumberGenerator, Sendable {
    private var state: UInt64

    public init(seed: UInt64) { state = seed }

    public mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var z = state
        z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
        return z ^ (z >> 31)
    }

    /// The seed of this test run: the environment's `DCP_SEED`, or a random one. Printed, so that a run can be repeated.
    public static let seed: UInt64 = {
        let given = getenv("DCP_SEED").flatMap { UInt64(String(cString: $0)) }
        let seed = given ?? UInt64.random(in: 1...UInt64(UInt32.max))
        print("DCP_SEED=\(seed)")
        return seed
    }()

    /// A generator of this run; `salt` gives each user numbers of its own.
    public static func ofRun(salt: UInt64) -> SeededGenerator {
        var mixer = SeededGenerator(seed: seed ^ (salt &* 0x2545_f491_4f6c_dd1d))
        return SeededGenerator(seed: mixer.next())
    }

    /// Uniform in -limit...limit.
    public mutating func floats(_ count: Int, limit: Float = 1) -> [Float] {
        (0..<count).map { _ in Float(Int64(next() >> 40) - (1 << 23)) / Float(1 << 23) * limit }
    }

    /// Token-major `[tokens][heads][dim]`, around a value that differs for each head and position: a transposed or
    /// shifted row is never plausible.
    public mutating func distinctRows(tokens: Int, heads: Int, dim: Int, limit: Float = 1) -> [Float] {
        var values = floats(tokens * heads * dim, limit: limit / 2)
        for token in 0..<tokens {
            for head in 0..<heads {
                let offset = limit / 2 * Float((token * 31 + head * 17) % 61 - 30) / 30
                for index in 0..<dim { values[(token * heads + head) * dim + index] += offset }
            }
        }
        return values
    }
}
