// SPDX-License-Identifier: Apache-2.0

/// The shares of its capacity at which a store counts as full: it is full above `high`, and writable again below `low`.
///
/// Between the two the state does not change, so that it does not toggle with every commit.
public struct Watermarks: Hashable, Sendable {
    /// Percent of the capacity.
    public let high: Int
    public let low: Int

    /// - Returns: nil unless 1 <= low < high <= 100.
    public init?(high: Int, low: Int) {
        guard 1 <= low, low < high, high <= 100 else { return nil }
        self.high = high
        self.low = low
    }

    private init(unchecked high: Int, _ low: Int) {
        self.high = high
        self.low = low
    }

    /// 95 % and 90 %.
    public static let standard = Watermarks(unchecked: 95, 90)

    public func highByteCount(capacity: Int) -> Int { Self.share(high, of: capacity) }
    public func lowByteCount(capacity: Int) -> Int { Self.share(low, of: capacity) }

    /// Whether a store is full with this usage, given whether it was full before.
    func isFull(_ wasFull: Bool, used: Int, capacity: Int) -> Bool {
        used >= highByteCount(capacity: capacity) || wasFull && used >= lowByteCount(capacity: capacity)
    }

    /// Without the overflow of `capacity * percent`.
    private static func share(_ percent: Int, of capacity: Int) -> Int {
        capacity / 100 * percent + capacity % 100 * percent / 100
    }
}
