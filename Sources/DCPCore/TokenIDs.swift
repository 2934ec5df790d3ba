/// Ids of consecutive tokens of a sequence, as a client calls them.
public struct TokenIDs: Hashable, Sendable {
    /// The position of the first.
    public var start: Int
    public var ids: [UInt32]

    public init(start: Int, ids: [UInt32]) {
        self.start = start
        self.ids = ids
    }

    public var end: Int { start + ids.count }
}

/// The most that a sequence takes of what clients call things by and leave with it.
public enum SequenceLimits {
    public static let annotationByteCountMax = 1 << 20
    public static let scopeByteCountMax = 255
}
