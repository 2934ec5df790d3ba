// SPDX-License-Identifier: Apache-2.0

public import DCPCore

/// Every member gives each other member a summand; every member ends with the summands of its own slice.
///
/// The sum itself is the caller's, on a compute thread and always in rank order: a tree or a ring would be faster on a
/// wide cluster, but its order depends on who arrives first, and then two runs differ in their last bits.
public struct ReduceScatter<Summand: Equatable & Sendable>: Sendable {
    public enum Action: Sendable {
        case send(Summand, to: Int)
        /// The summands in rank order. Returned once.
        case reduce([Summand])
    }

    @usableFromInline var exchange: AllToAll<Summand>

    @inlinable
    public init(rank: Int, members: Int) { exchange = AllToAll(rank: rank, members: members) }

    /// Gives the own summands, one for each member in rank order.
    @inlinable
    public mutating func contribute(_ summands: [Summand]) throws(ServiceError) -> [Action] {
        try exchange.contribute(summands).map(Self.action)
    }

    @inlinable
    public mutating func receive(_ summand: Summand, from member: Int) throws(ServiceError) -> [Action] {
        try exchange.receive(summand, from: member).map(Self.action)
    }

    /// Members whose summand has not come, for the message when the deadline passes.
    @inlinable public var missing: [Int] { exchange.missing }

    @inlinable
    static func action(_ action: AllToAll<Summand>.Action) -> Action {
        switch action {
        case .send(let summand, let member): .send(summand, to: member)
        case .finished(let summands): .reduce(summands)
        }
    }
}
