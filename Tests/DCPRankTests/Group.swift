// SPDX-License-Identifier: Apache-2.0

import DCPAttention
import DCPCore
import DCPRank
import DCPWire

/// What came out of one rank: a record that every run keeps.
struct Outcome {
    var replies: [AttentionStates] = []
    var verdicts: [ServiceError] = []
    var rollBacks = 0
    /// Messages to each rank, in the order they were sent.
    var sent: [Int: [StepMachine.Event]] = [:]

    var endings: Int { replies.count + verdicts.count }
}

/// One machine and what it waits for: the results of its computations, in any order, and messages of its peers, each
/// peer's in the order they were sent, as a connection brings them.
struct Member {
    let test: StepCase
    let rank: Int
    var machine: StepMachine
    var outcome = Outcome()
    var computations: [StepMachine.Event] = []
    var inboxes: [[StepMachine.Event]]
    var isContextReadyPending: Bool

    /// The client's request has not come yet while this is true.
    var isStartPending = true

    init(_ test: StepCase, rank: Int) throws {
        self.test = test
        self.rank = rank
        machine = try test.machine(ofRank: rank)
        inboxes = Array(repeating: [], count: test.ranks)
        isContextReadyPending = true
    }

    enum Choice: Hashable {
        case start
        case contextReady
        case computation(Int)
        case message(from: Int)
    }

    /// All that may happen next on this rank. Its shell starts a step before it delivers anything to it.
    var choices: [Choice] {
        if isStartPending { return [.start] }
        return (isContextReadyPending ? [.contextReady] : [])
            + computations.indices.map { .computation($0) }
            + inboxes.indices.filter { !inboxes[$0].isEmpty }.map { .message(from: $0) }
    }

    /// Lets one thing happen; returns the messages it sent.
    mutating func take(_ choice: Choice) throws -> [(to: Int, event: StepMachine.Event)] {
        switch choice {
        case .start:
            isStartPending = false
            return try perform(machine.start(test.queries(ofRank: rank)))
        case .contextReady:
            isContextReadyPending = false
            return try deliver(.contextReady)
        case .computation(let index): return try deliver(computations.remove(at: index))
        case .message(let member): return try deliver(inboxes[member].removeFirst())
        }
    }

    mutating func deliver(_ event: StepMachine.Event) throws -> [(to: Int, event: StepMachine.Event)] {
        try perform(machine.handle(event))
    }

    private mutating func perform(_ actions: [StepMachine.Action]) throws -> [(to: Int, event: StepMachine.Event)] {
        var messages: [(to: Int, event: StepMachine.Event)] = []
        for action in actions {
            if let result = try answer(to: action, of: test, rank: rank) { computations.append(result) }
            if let message = message(of: action, from: rank) {
                messages.append(message)
                outcome.sent[message.to, default: []].append(message.event)
            }
            switch action {
            case .reply(let answer): outcome.replies.append(try StepCase.states(in: answer))
            case .fail(let error): outcome.verdicts.append(error)
            case .rollBack: outcome.rollBacks += 1
            default: break
            }
        }
        return messages
    }
}

/// A head group: the machines of all ranks and the messages between them.
struct Group {
    var members: [Member]

    init(_ test: StepCase) throws { members = try (0..<test.ranks).map { try Member(test, rank: $0) } }

    var choices: [(rank: Int, choice: Member.Choice)] {
        members.indices.flatMap { rank in members[rank].choices.map { (rank, $0) } }
    }

    mutating func take(_ rank: Int, _ choice: Member.Choice) throws {
        route(from: rank, try members[rank].take(choice))
    }

    mutating func deliver(_ event: StepMachine.Event, to rank: Int) throws {
        route(from: rank, try members[rank].deliver(event))
    }

    private mutating func route(from rank: Int, _ messages: [(to: Int, event: StepMachine.Event)]) {
        for message in messages { members[message.to].inboxes[rank].append(message.event) }
    }

    /// Lets everything happen that can, each time what `pick` says. Returns how many things did.
    @discardableResult
    mutating func run(pick: (Int) -> Int) throws -> Int {
        var count = 0
        while case let choices = choices, !choices.isEmpty {
            let (rank, choice) = choices[pick(choices.count)]
            try take(rank, choice)
            count += 1
        }
        return count
    }

    var outcomes: [Outcome] { members.map(\.outcome) }
}
