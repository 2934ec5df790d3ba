// SPDX-License-Identifier: Apache-2.0

/// The properties that determine whether and when a sequence is evicted.
public struct Retention: Hashable, Sendable {
    /// Never evicted; the time to live is ignored.
    public var isPinned = false
    /// Closed by its client and available for matches; evicted before sequences that were claimed later.
    public var isKept = false
    /// Sequences with a lower priority are evicted first, whenever they were used.
    public var priority: Int8 = 0
    /// The sequence is closed after this many seconds without use; 0 for never.
    public var timeToLive: UInt32 = 0

    public init() {}

    /// The retention that keeps a sequence as long as either of two records does; it is unknown which of them is newer.
    public func longer(_ other: Retention) -> Retention {
        var longer = self
        longer.isPinned = isPinned || other.isPinned
        longer.isKept = isKept && other.isKept
        longer.priority = max(priority, other.priority)
        longer.timeToLive = timeToLive == 0 || other.timeToLive == 0 ? 0 : max(timeToLive, other.timeToLive)
        return longer
    }
}
