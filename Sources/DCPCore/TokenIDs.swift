// SPDX-License-Identifier: Apache-2.0

/// A client's ids of consecutive tokens of a sequence.
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

/// Limits for the ids, scopes and annotations that clients store with a sequence.
public enum SequenceLimits {
    public static let annotationByteCountMax = 1 << 20
    public static let scopeByteCountMax = 255
}
