// SPDX-License-Identifier: Apache-2.0

/// Measured values of one quantity, in the order they were measured. Never empty.
public struct Samples: Hashable, Sendable {
    public let values: [Double]
    private let sorted: [Double]

    public init(_ values: [Double]) {
        precondition(!values.isEmpty, "nothing was measured")
        self.values = values
        sorted = values.sorted()
    }

    public var count: Int { values.count }
    public var median: Double { percentile(50) }

    /// The percentile, by linear interpolation between neighbours: 0 is the minimum, 100 the maximum.
    public func percentile(_ percent: Double) -> Double {
        precondition((0...100).contains(percent))
        let place = percent / 100 * Double(sorted.count - 1)
        let below = Int(place)
        guard below + 1 < sorted.count else { return sorted[below] }
        return sorted[below] + (place - Double(below)) * (sorted[below + 1] - sorted[below])
    }

    /// Each value through a function: seconds to bytes per second.
    public func map(_ transform: (Double) -> Double) -> Samples { Samples(values.map(transform)) }

    /// Each value by the one of the same round; a single one is that of all rounds.
    public func divided(by other: Samples) -> Samples {
        if other.count == 1 { return map { $0 / other.values[0] } }
        precondition(count == other.count, "measured in other rounds")
        return Samples(zip(values, other.values).map { $0 / $1 })
    }
}
