// SPDX-License-Identifier: Apache-2.0

public import DCPCore

/// How often something failed, by the kind of failure.
public struct CauseCounts: Hashable, Sendable {
    /// Those that were ever counted, and those it began with at zero.
    public private(set) var counts: [ServiceError.Code: UInt64]

    /// - Parameter expected: shown from the beginning, so that the first one is seen as a rise from zero.
    public init(_ expected: [ServiceError.Code] = []) {
        counts = Dictionary(expected.map { ($0, 0) }, uniquingKeysWith: { a, _ in a })
    }

    public var total: UInt64 { counts.values.reduce(0, &+) }

    /// At most one entry for each code there is: what a peer sends cannot make it grow.
    public mutating func count(_ code: ServiceError.Code) {
        let isKnown = "\(code)" != "error \(code.rawValue)"
        counts[isKnown ? code : .internal, default: 0] &+= 1
    }

    /// In the order of the codes, with the text of a label: `stale_epoch`.
    public var labelled: [(cause: String, count: UInt64)] {
        counts.sorted { $0.key.rawValue < $1.key.rawValue }.map {
            ("\($0.key)".replacing(" ", with: "_"), $0.value)
        }
    }
}
