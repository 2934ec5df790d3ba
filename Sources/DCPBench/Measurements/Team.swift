// SPDX-License-Identifier: Apache-2.0

internal import DCPAttention
internal import DCPCore
internal import DCPRank
internal import Dispatch
internal import Glibc
internal import Synchronization

/// The compute threads of a rank, for measurements: what runs on them is dealt as a rank deals it.
final class Team: Sendable {
    let threads: Int
    private let pool: ComputePool

    init(threads: Int) {
        self.threads = threads
        pool = ComputePool(threads: threads)
    }

    /// Attention of one entry, from the cut into pieces to the merged states. Blocks.
    func attend(_ prepare: @escaping @Sendable () -> AttentionJob) throws(ServiceError) -> AttentionStates {
        let waiting = Waiting<AttentionResult>()
        pool.attend(
            in: .decode, isCancelled: { false }, prepare: { () throws(ServiceError) in prepare() },
            completion: { waiting.finish($0) })
        return try waiting.wait().states
    }

    /// Runs numbered pieces, each once, on whichever thread is free. Blocks.
    func deal(_ count: Int, _ piece: @escaping @Sendable (Int) -> Void) {
        let next = DealtPieces(count)
        let done = DispatchGroup()
        for _ in 0..<threads {
            done.enter()
            pool.submit {
                while let index = next.take() { piece(index) }
                done.leave()
            }
        }
        done.wait()
    }

    /// Runs something on every thread at the same time. Blocks.
    func onEach(_ body: @escaping @Sendable (_ thread: Int) -> Void) {
        let gate = Gate(threads)
        let done = DispatchGroup()
        for thread in 0..<threads {
            done.enter()
            pool.submit {
                // A thread that waits here takes no second one.
                gate.pass()
                body(thread)
                done.leave()
            }
        }
        done.wait()
    }

    deinit {
        // Nothing runs any more: every call above has waited.
        try? pool.shutDownAndWait()
    }
}

private final class DealtPieces: Sendable {
    private let next = Atomic<Int>(0)
    private let count: Int

    init(_ count: Int) { self.count = count }

    func take() -> Int? {
        let index = next.add(1, ordering: .relaxed).oldValue
        return index < count ? index : nil
    }
}

/// Lets threads pass when all have come.
private final class Gate: Sendable {
    private let missing: Atomic<Int>

    init(_ threads: Int) { missing = Atomic(threads) }

    func pass() {
        missing.subtract(1, ordering: .acquiringAndReleasing)
        while missing.load(ordering: .acquiring) > 0 { sched_yield() }
    }
}
