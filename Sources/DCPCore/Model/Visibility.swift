// SPDX-License-Identifier: Apache-2.0

/// The keys that a query sees, by global positions: never by local indices, which refer to different tokens on each
/// rank.
///
/// A new kind of visibility is a case here with the range that it yields; all other code uses the range. See *Models*.
public enum Visibility: Hashable, Sendable {
    /// All tokens up to its own.
    case all
    /// The last n tokens, including its own: the query at p sees p - n + 1 ... p.
    case window(Int)

    /// The first position that the query at `position` sees. It sees all from there to its own, and never falls when the
    /// position rises.
    public func first(seenFrom position: Int) -> Int {
        precondition(position >= 0)
        switch self {
        case .all: return 0
        case .window(let tokens): return max(0, position - tokens + 1)
        }
    }
}

extension Visibility: CustomStringConvertible {
    /// `all` or `window of 1024 tokens`.
    public var description: String {
        switch self {
        case .all: "all"
        case .window(let tokens): "window of \(tokens) tokens"
        }
    }
}
