// SPDX-License-Identifier: Apache-2.0

/// The permanent number of a rank daemon, bound to its store: `dcp-rank@N` is rank N.
public struct RankIndex: Hashable, Comparable, Sendable, CustomStringConvertible {
    public let value: UInt16

    public init(_ value: UInt16) { self.value = value }

    public static func < (a: RankIndex, b: RankIndex) -> Bool { a.value < b.value }
    public var description: String { "rank \(value)" }
}

/// The membership generation. Every frame has it; a rank refuses any epoch below the highest that it persisted.
public struct Epoch: Hashable, Comparable, Sendable, CustomStringConvertible {
    public let value: UInt64

    public init(_ value: UInt64) { self.value = value }

    /// The epoch before the cluster is complete for the first time.
    public static let none = Epoch(0)
    public var next: Epoch { Epoch(value + 1) }

    public static func < (a: Epoch, b: Epoch) -> Bool { a.value < b.value }
    public var description: String { "epoch \(value)" }
}

/// A model's number in the cluster, assigned by the coordinator and never reused.
public struct ModelID: Hashable, Comparable, Sendable, CustomStringConvertible {
    public let value: UInt32

    public init(_ value: UInt32) { self.value = value }

    public static func < (a: ModelID, b: ModelID) -> Bool { a.value < b.value }
    public var description: String { "model #\(value)" }
}

/// A sequence's number in the cluster, assigned by the coordinator and never reused.
public struct SequenceID: Hashable, Comparable, Sendable, CustomStringConvertible {
    public let value: UInt64

    public init(_ value: UInt64) { self.value = value }

    public static func < (a: SequenceID, b: SequenceID) -> Bool { a.value < b.value }
    public var description: String { "sequence #\(value)" }
}

/// The right of one client to change a sequence: the latest number that the coordinator assigned for it.
///
/// A client gets one when it resumes a sequence, or with its first step, and states it in every step, commit and
/// rewind, and when it truncates, forks or closes. Requests of its predecessor, and late requests, have an older claim
/// and are refused. Claims rise and contain the epoch in which they were assigned; they are valid only in that epoch.
public struct Claim: Hashable, Comparable, Sendable, CustomStringConvertible {
    public let value: UInt64

    public init(_ value: UInt64) { self.value = value }

    /// - Parameters:
    ///   - epoch: the one in which the coordinator gives the claim.
    ///   - number: rises with each claim of one epoch.
    public init(in epoch: Epoch, number: UInt64) { value = epoch.value << 32 | number }

    /// No claim; it is never the latest.
    public static let none = Claim(0)

    /// The low 32 bits distinguish epochs for as long as a claim is remembered.
    public func isOf(_ epoch: Epoch) -> Bool { value >> 32 == epoch.value & 0xFFFF_FFFF }

    public static func < (a: Claim, b: Claim) -> Bool { a.value < b.value }
    public var description: String { "claim \(value >> 32).\(value & 0xFFFF_FFFF)" }
}

/// The random identity of a client connection, so that steps of different clients never share a tag.
public struct ClientID: Hashable, Sendable, CustomStringConvertible {
    public let value: UInt64

    public init(_ value: UInt64) { self.value = value }

    public static func random() -> ClientID { ClientID(UInt64.random(in: 1...UInt64.max)) }
    public var description: String { "client " + String(value, radix: 16) }
}

/// The random identity of a cluster, drawn when the coordinator's state is created; the ranks' stores keep it from
/// their first join on.
public struct ClusterID: Hashable, Sendable, CustomStringConvertible {
    public let value: UInt64

    public init(_ value: UInt64) { self.value = value }

    /// No cluster: the value in a store that has never joined one.
    public static let none = ClusterID(0)

    public static func random() -> ClusterID { ClusterID(UInt64.random(in: 1...UInt64.max)) }

    public var description: String { value.hexadecimal }
}

/// The number of changes in a coordinator's directory. Ranks keep the highest number that they received in an epoch.
public struct DirectoryMark: Hashable, Comparable, Sendable, CustomStringConvertible {
    public let value: UInt64

    public init(_ value: UInt64) { self.value = value }

    /// No change is recorded or known.
    public static let none = DirectoryMark(0)

    public var next: DirectoryMark { DirectoryMark(value + 1) }

    public static func < (a: DirectoryMark, b: DirectoryMark) -> Bool { a.value < b.value }

    public var description: String { "\(value)" }
}

/// The random identity of a store, written once when the store is created.
public struct StoreID: Hashable, Sendable, CustomStringConvertible {
    public let high: UInt64
    public let low: UInt64

    public init(high: UInt64, low: UInt64) {
        self.high = high
        self.low = low
    }

    public static func random() -> StoreID {
        StoreID(high: UInt64.random(in: 1...UInt64.max), low: UInt64.random(in: 0...UInt64.max))
    }

    public var description: String { high.hexadecimal + low.hexadecimal }
}

extension UnsignedInteger where Self: FixedWidthInteger {
    /// All its digits, zeros before it included.
    package var hexadecimal: String {
        let digits = String(self, radix: 16)
        return String(repeating: "0", count: Self.bitWidth / 4 - digits.count) + digits
    }
}
