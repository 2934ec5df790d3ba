// SPDX-License-Identifier: Apache-2.0

/// The place of a token among others, counted from 0. As the end of a range, it is the number of tokens before it.
///
/// Tokens are counted in two ways: in their sequence (``Position``) and in a rank's shard of it (``LocalIndex``). A place of
/// one kind is never compared with one of the other, added to it, or passed for it: where both occur, each has its type, and
/// only a ``Shard`` finds the one of the other.
public protocol TokenIndex: Hashable, Comparable, Strideable, Sendable, CustomStringConvertible where Stride == Int {
    var value: Int { get }

    init(_ value: Int)
}

extension TokenIndex {
    public var description: String { "\(value)" }

    public static func < (a: Self, b: Self) -> Bool { a.value < b.value }

    public func distance(to other: Self) -> Int { other.value - value }
    public func advanced(by count: Int) -> Self { Self(value + count) }

    public static func + (index: Self, count: Int) -> Self { index.advanced(by: count) }
    public static func += (index: inout Self, count: Int) { index = index + count }
    /// The tokens between two places.
    public static func - (end: Self, start: Self) -> Int { start.distance(to: end) }
}

extension Range where Bound: TokenIndex {
    /// Places that are given as numbers.
    public init(_ values: Range<Int>) {
        self.init(uncheckedBounds: (Bound(values.lowerBound), Bound(values.upperBound)))
    }
}

/// The place of a token in its sequence, which is the same on all ranks. As the end of a range, it is the length of the
/// sequence before it.
public struct Position: TokenIndex {
    public let value: Int

    public init(_ value: Int) { self.value = value }
}

/// The place of a token in a rank's shard of its sequence, counted in the tokens that the rank owns. As the end of a range,
/// it is the length of the shard before it.
public struct LocalIndex: TokenIndex {
    public let value: Int

    public init(_ value: Int) { self.value = value }
}
