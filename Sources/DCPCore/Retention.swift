/// How long a sequence stays: what decides whether, and before which others, it is evicted.
public struct Retention: Hashable, Sendable {
    /// Never evicted, and never too old.
    public var isPinned = false
    /// Nobody has it: it is there to be found by its tokens, and goes before sequences that somebody has claimed since.
    public var isKept = false
    /// Sequences of a lower priority go first, whenever they were used.
    public var priority: Int8 = 0
    /// Closed when it has not been used for so many seconds; 0 for never.
    public var timeToLive: UInt32 = 0

    public init() {}

    /// What keeps a sequence for as long as either does: of two records of one thing, of which one is older, and nobody
    /// knows which.
    public func longer(_ other: Retention) -> Retention {
        var longer = self
        longer.isPinned = isPinned || other.isPinned
        longer.isKept = isKept && other.isKept
        longer.priority = max(priority, other.priority)
        longer.timeToLive = timeToLive == 0 || other.timeToLive == 0 ? 0 : max(timeToLive, other.timeToLive)
        return longer
    }
}
