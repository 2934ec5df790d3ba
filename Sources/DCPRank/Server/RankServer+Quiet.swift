// SPDX-License-Identifier: Apache-2.0

internal import DCPCache
internal import DCPCore
internal import DCPWire

/// Waits for the end of steps without blocking the loop: the last step to end runs the waiting bodies.
extension RankServer {
    /// Work that must not overlap the steps of some sequences.
    struct QuietWaiter {
        var isQuiet: (StepTable) -> Bool
        var body: () -> Void
    }

    /// Runs a body when no step, including its computations, uses a sequence any more; immediately if none does.
    ///
    /// An aborted step's append may still run on a compute thread, and is rolled back when it ends. Changing or reading
    /// lengths in between would see tokens that are about to disappear, and ranks would disagree.
    func whenQuiet(_ sequence: SequenceID, _ body: @escaping () -> Void) {
        wait(for: { steps in !steps.executions.values.contains { $0.touches(sequence) } }, body)
    }

    /// Runs a body when no step, commit or fork touches a sequence any more.
    func whenIdle(_ sequence: SequenceID, _ body: @escaping () -> Void) {
        wait(
            for: { [unowned self] steps in
                writesOn[sequence] == nil && !steps.executions.values.contains { $0.touches(sequence) }
            }, body)
    }

    /// Runs a body when no running step, including its computations, appends tokens of a sequence before `length`;
    /// immediately if these are committed.
    func whenInPlace(_ sequence: SequenceID, to length: Int, _ body: @escaping () -> Void) {
        guard length > cache.state(of: sequence)?.committedLength ?? 0 else { return body() }
        wait(
            for: { steps in
                !steps.executions.values.contains { execution in
                    execution.request.entries.contains { $0.sequence == sequence && $0.position < length }
                }
            }, body)
    }

    /// Something that the writer is asked for reads or commits tokens of a sequence.
    func beginWriting(_ sequence: SequenceID) { writesOn[sequence, default: 0] += 1 }

    func endWriting(_ sequence: SequenceID) {
        let rest = writesOn[sequence, default: 1] - 1
        writesOn[sequence] = rest > 0 ? rest : nil
        runQuietWaiters()
    }

    /// Runs a body when no step is left, computations included.
    func whenAllQuiet(_ body: @escaping () -> Void) { wait(for: { $0.executions.isEmpty }, body) }

    /// Runs a body when no aborted step of some sequences is still being rolled back.
    func whenRolledBack(_ sequences: [SequenceID], _ body: @escaping () -> Void) {
        wait(
            for: { steps in
                !steps.executions.values.contains { execution in
                    execution.machine.isOver && sequences.contains { execution.touches($0) }
                }
            }, body)
    }

    private func wait(for isQuiet: @escaping (StepTable) -> Bool, _ body: @escaping () -> Void) {
        if isQuiet(steps) {
            body()
        } else {
            quietWaiters.append(QuietWaiter(isQuiet: isQuiet, body: body))
        }
    }

    /// A step, commit or fork has ended: runs what waited for it.
    func runQuietWaiters() {
        guard !quietWaiters.isEmpty else { return }
        let ready = quietWaiters.filter { $0.isQuiet(steps) }
        guard !ready.isEmpty else { return }
        quietWaiters.removeAll { $0.isQuiet(steps) }
        for waiter in ready { waiter.body() }
    }
}
