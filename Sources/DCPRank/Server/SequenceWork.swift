// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPWire

/// The work on sequences other than their steps, and what waits until it ends, as a value.
struct SequenceWork {
    /// What must end before something that must not overlap steps.
    enum Quiet {
        /// No step uses the sequence any more, its computations included.
        ///
        /// An aborted step's append may still run on a compute thread, and is rolled back when it ends. Changing or reading
        /// lengths in between would see tokens that are about to disappear, and ranks would disagree.
        case withoutSteps(SequenceID)
        /// No step, commit or fork touches the sequence any more.
        case idle(SequenceID)
        /// No running step appends tokens of the sequence before a length.
        case inPlace(SequenceID, to: Int)
        /// No aborted step of some sequences is still being rolled back.
        case rolledBack([SequenceID])
        /// No step is left, computations included.
        case withoutAnyStep
    }

    /// Running commits and forks of each sequence; no entry for none.
    private var writes: [SequenceID: Int] = [:]
    /// Sequences that an operation of the coordinator is changing.
    private var changing: Set<SequenceID> = []
    private var waiting: [(quiet: Quiet, body: () -> Void)] = []
    private(set) var commitsInFlight = 0

    // MARK: Writes

    /// Counts a write that reads or commits tokens of a sequence.
    mutating func beginWriting(_ sequence: SequenceID) { writes[sequence, default: 0] += 1 }

    mutating func endWriting(_ sequence: SequenceID) {
        let rest = writes[sequence, default: 1] - 1
        writes[sequence] = rest > 0 ? rest : nil
    }

    mutating func beginCommit(of sequences: some Sequence<SequenceID>) {
        commitsInFlight += 1
        for sequence in sequences { beginWriting(sequence) }
    }

    mutating func endCommit(of sequences: some Sequence<SequenceID>) {
        commitsInFlight -= 1
        for sequence in sequences { endWriting(sequence) }
    }

    // MARK: Changes by the coordinator

    /// From now on steps of the sequence are refused.
    mutating func beginChange(of sequence: SequenceID) { changing.insert(sequence) }
    mutating func endChange(of sequence: SequenceID) { changing.remove(sequence) }
    func isChanging(_ sequence: SequenceID) -> Bool { changing.contains(sequence) }

    // MARK: Waiting

    func isQuiet(_ quiet: Quiet, _ steps: StepTable) -> Bool {
        let executions = steps.executions.values
        return switch quiet {
        case .withoutSteps(let sequence): !executions.contains { $0.touches(sequence) }
        case .idle(let sequence): writes[sequence] == nil && !executions.contains { $0.touches(sequence) }
        case .inPlace(let sequence, let length):
            !executions.contains { execution in
                execution.request.entries.contains { $0.sequence == sequence && $0.position < length }
            }
        case .rolledBack(let sequences):
            !executions.contains { execution in execution.isOver && sequences.contains { execution.touches($0) } }
        case .withoutAnyStep: executions.isEmpty
        }
    }

    var isWaitedFor: Bool { !waiting.isEmpty }

    mutating func wait(for quiet: Quiet, _ body: @escaping () -> Void) { waiting.append((quiet, body)) }

    /// Removes what need not wait any longer.
    /// - Returns: the bodies, in the order they came.
    mutating func takeReady(_ steps: StepTable) -> [() -> Void] {
        let ready = waiting.filter { isQuiet($0.quiet, steps) }
        guard !ready.isEmpty else { return [] }
        waiting = waiting.filter { !isQuiet($0.quiet, steps) }
        return ready.map(\.body)
    }

    /// See `RankServer.abandon`.
    mutating func abandon() { waiting = [] }
}
