// SPDX-License-Identifier: Apache-2.0

import DCPCollectives
import DCPCore
import Testing

/// What one member does: give its own piece, or take that of another.
private enum Turn: Hashable { case own, from(Int) }

private func orders<Element>(_ elements: [Element]) -> [[Element]] {
    guard elements.count > 1 else { return [elements] }
    return elements.indices.flatMap { index in
        var rest = elements
        let first = rest.remove(at: index)
        return orders(rest).map { [first] + $0 }
    }
}

/// Every order of the own piece and those of the others, for each rank of 1, 2 and 3.
private let cases: [(members: Int, rank: Int, order: [Turn])] = (1...3).flatMap { members in
    (0..<members).flatMap { rank in
        orders((0..<members).map { $0 == rank ? Turn.own : .from($0) }).map { (members, rank, $0) }
    }
}

@Suite("Collectives: every arrival order for 1, 2 and 3 ranks")
struct CollectivesTests {
    @Test("there are 1 + 2 x 2 + 3 x 6 cases")
    func caseCount() { #expect(cases.count == 23) }

    @Test("all-gather: the own piece to each other, all pieces in rank order, once, with the last arrival")
    func allGather() throws {
        for (members, rank, order) in cases {
            var gather = AllGather<String>(rank: rank, members: members)
            var sent: [Int: String] = [:]
            var results: [[String]] = []
            for (step, turn) in order.enumerated() {
                #expect(results.isEmpty, "finished before step \(step) of \(order)")
                let expected = (0..<members).filter { member in
                    !order[..<step].contains(member == rank ? .own : .from(member))
                }
                #expect(gather.missing == expected)
                let actions =
                    switch turn {
                    case .own: try gather.contribute("piece \(rank)")
                    case .from(let member): try gather.receive("piece \(member)", from: member)
                    }
                for action in actions {
                    switch action {
                    case .send(let piece, let member): #expect(sent.updateValue(piece, forKey: member) == nil)
                    case .finished(let pieces): results.append(pieces)
                    }
                }
            }
            #expect(results == [(0..<members).map { "piece \($0)" }])
            #expect(gather.missing == [])
            let others = (0..<members).filter { $0 != rank }
            #expect(sent == Dictionary(uniqueKeysWithValues: others.map { ($0, "piece \(rank)") }))
        }
    }

    @Test("all-to-all: each gets the piece made for it, and ends with those made for itself in rank order")
    func allToAll() throws {
        for (members, rank, order) in cases {
            var exchange = AllToAll<String>(rank: rank, members: members)
            var sent: [Int: String] = [:]
            var results: [[String]] = []
            for turn in order {
                #expect(results.isEmpty)
                let actions =
                    switch turn {
                    case .own: try exchange.contribute((0..<members).map { "\(rank) to \($0)" })
                    case .from(let member): try exchange.receive("\(member) to \(rank)", from: member)
                    }
                for action in actions {
                    switch action {
                    case .send(let piece, let member): #expect(sent.updateValue(piece, forKey: member) == nil)
                    case .finished(let pieces): results.append(pieces)
                    }
                }
            }
            #expect(results == [(0..<members).map { "\($0) to \(rank)" }])
            #expect(exchange.missing == [])
            let others = (0..<members).filter { $0 != rank }
            #expect(sent == Dictionary(uniqueKeysWithValues: others.map { ($0, "\(rank) to \($0)") }))
        }
    }

    @Test("reduce-scatter: summands are added in rank order, however they arrive, so the sum has the same bits")
    func reduceScatter() throws {
        // In Float these three give another sum in another order.
        let summands: [Float] = [1, 1e8, -1e8]
        for (members, rank, order) in cases {
            var scatter = ReduceScatter<Float>(rank: rank, members: members)
            var sent: [Int: Float] = [:]
            var results: [[Float]] = []
            for turn in order {
                #expect(results.isEmpty)
                let actions =
                    switch turn {
                    case .own:
                        try scatter.contribute((0..<members).map { $0 == rank ? summands[rank] : Float($0) })
                    case .from(let member): try scatter.receive(summands[member], from: member)
                    }
                for action in actions {
                    switch action {
                    case .send(let summand, let member): #expect(sent.updateValue(summand, forKey: member) == nil)
                    case .reduce(let summands): results.append(summands)
                    }
                }
            }
            #expect(results == [Array(summands[..<members])])
            #expect(scatter.missing == [])
            let others = (0..<members).filter { $0 != rank }
            #expect(sent == Dictionary(uniqueKeysWithValues: others.map { ($0, Float($0)) }))
        }
    }

    @Test("a second piece of one member is refused at every point, the same again dropped; neither changes anything")
    func duplicates() throws {
        for (members, rank, order) in cases where members > 1 {
            for repeated in order.indices {
                var gather = AllGather<String>(rank: rank, members: members)
                var exchange = AllToAll<String>(rank: rank, members: members)
                var scatter = ReduceScatter<String>(rank: rank, members: members)
                var finished = 0
                for (step, turn) in order.enumerated() {
                    let isLast = step == order.count - 1
                    let member = if case .from(let member) = turn { member } else { rank }
                    if turn == .own {
                        _ = try gather.contribute("a")
                        let pieces = Array(repeating: "a", count: members)
                        _ = try exchange.contribute(pieces)
                        finished += try scatter.contribute(pieces).count {
                            if case .reduce = $0 { true } else { false }
                        }
                    } else {
                        _ = try gather.receive("a", from: member)
                        _ = try exchange.receive("a", from: member)
                        finished += try scatter.receive("a", from: member).count
                    }
                    #expect(finished == (isLast ? 1 : 0))
                    guard step == repeated else { continue }
                    let before = (gather.missing, exchange.missing, scatter.missing)
                    for error in [
                        try #require(throws: ServiceError.self) { try gather.receive("b", from: member) },
                        try #require(throws: ServiceError.self) { try exchange.receive("b", from: member) },
                        try #require(throws: ServiceError.self) { try scatter.receive("b", from: member) },
                    ] {
                        #expect(error.code == .protocolViolation)
                        #expect(error.message.contains("Context rank \(member)") && error.message.contains("second"))
                    }
                    #expect(try gather.receive("a", from: member).isEmpty)
                    #expect(try exchange.receive("a", from: member).isEmpty)
                    #expect(try scatter.receive("a", from: member).isEmpty)
                    #expect((gather.missing, exchange.missing, scatter.missing) == before)
                }
            }
        }
    }

    @Test("TRAPS 33: a member outside the group is refused with the group's size", arguments: [-1, 3, 65_535])
    func strangers(member: Int) throws {
        var gather = AllGather<Int>(rank: 1, members: 3)
        var exchange = AllToAll<Int>(rank: 1, members: 3)
        var scatter = ReduceScatter<Int>(rank: 1, members: 3)
        for error in [
            try #require(throws: ServiceError.self) { try gather.receive(0, from: member) },
            try #require(throws: ServiceError.self) { try exchange.receive(0, from: member) },
            try #require(throws: ServiceError.self) { try scatter.receive(0, from: member) },
        ] {
            #expect(error.code == .protocolViolation)
            #expect(error.message.contains("\(member)") && error.message.contains("3 ranks"))
        }
        #expect(gather.missing == [0, 1, 2])
    }
}
