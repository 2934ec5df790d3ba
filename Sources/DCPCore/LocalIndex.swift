// SPDX-License-Identifier: Apache-2.0

/// The place of a token in a rank's shard of its sequence, counted in the tokens that the rank owns.
///
/// Positions and lengths of sequences are global, and `Int`. The two are never compared or added: where both occur, an
/// index is of this type, and only a `Shard` finds the one of the other. As the end of a range, an index is the length of
/// the shard before it.
public struct LocalIndex: Hashable, Comparable, Strideable, Sendable, CustomStringConvertible {
    public let value: Int

    public init(_ value: Int) { self.value = value }

    public var description: String { "\(value)" }

    public static func < (a: LocalIndex, b: LocalIndex) -> Bool { a.value < b.value }

    public func distance(to other: LocalIndex) -> Int { other.value - value }
    public func advanced(by count: Int) -> LocalIndex { LocalIndex(value + count) }

    public static func + (index: LocalIndex, count: Int) -> LocalIndex { index.advanced(by: count) }
    public static func += (index: inout LocalIndex, count: Int) { index = index + count }
    /// The tokens between two places.
    public static func - (end: LocalIndex, start: LocalIndex) -> Int { start.distance(to: end) }
}
