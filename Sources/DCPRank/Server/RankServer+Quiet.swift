// SPDX-License-Identifier: Apache-2.0

internal import DCPCache
internal import DCPCore

/// Waits for the end of steps without blocking the loop: the last step to end runs the waiting bodies.
extension RankServer {
    /// Runs a body when it is quiet; immediately if it is.
    func when(_ quiet: SequenceWork.Quiet, _ body: @escaping () -> Void) {
        if work.isQuiet(quiet, steps) {
            body()
        } else {
            work.wait(for: quiet, body)
        }
    }

    /// `.inPlace`, but immediately if the tokens before `length` are committed.
    func whenInPlace(_ sequence: SequenceID, to length: Int, _ body: @escaping () -> Void) {
        guard length > cache.state(of: sequence)?.committedLength.value ?? 0 else { return body() }
        when(.inPlace(sequence, to: length), body)
    }

    func endWriting(_ sequence: SequenceID) {
        work.endWriting(sequence)
        runReady()
    }

    /// A step, commit or fork has ended: runs what waited for it.
    func runReady() {
        guard work.isWaitedFor else { return }
        for body in work.takeReady(steps) { body() }
    }
}
