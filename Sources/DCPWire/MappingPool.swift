// SPDX-License-Identifier: Apache-2.0

internal import Dispatch
internal import Glibc
internal import Synchronization

/// Anonymous mappings: those in use, and those kept for reuse. Safe to use from any thread.
///
/// Mappings keep their pages while they wait. Giving the pages back would cost a reused mapping the page faults that the
/// pool is there to avoid, at any size, so whoever limits memory counts a reused mapping as written.
package final class MappingPool: Sendable {
    /// Memory with undefined contents.
    package struct Loan {
        package let memory: UnsafeMutableRawBufferPointer
        /// Whether it was lent before: then all of its pages may be allocated, whatever is written now.
        package let isReused: Bool
    }

    private struct Held {
        let memory: UnsafeMutableRawBufferPointer
        let since: ContinuousClock.Instant
    }

    /// `@unchecked Sendable`: only addresses, which their borrowers use.
    private struct State: @unchecked Sendable {
        /// Bytes of each mapping, by its address.
        var lent: [UnsafeMutableRawPointer: Int] = [:]
        /// In the order in which they came back.
        var held: [Held] = []
        var heldByteCount = 0
        /// Whether a release is due.
        var isWatched = false
    }

    private let heldByteCountMax: Int
    private let idleTime: Duration
    private let state = Mutex(State())
    static let hugePage = 2 << 20

    /// - Parameters:
    ///   - heldByteCountMax: beyond it, the mappings returned first are unmapped.
    ///   - idleTime: mappings unused for this long are unmapped.
    package init(heldByteCountMax: Int, idleTime: Duration) {
        self.heldByteCountMax = heldByteCountMax
        self.idleTime = idleTime
    }

    /// Bytes kept for reuse.
    package var heldByteCount: Int { state.withLock { $0.heldByteCount } }

    /// - Returns: `byteCount` bytes with undefined contents. The process ends if the system has none.
    package func take(_ byteCount: Int) -> UnsafeMutableRawBufferPointer {
        guard let loan = lend(byteCount) else {
            preconditionFailure("no memory for \(byteCount) bytes of a payload (mmap: errno \(errno))")
        }
        return loan.memory
    }

    /// - Returns: `byteCount` bytes; nil if the system has none, as where it does not overcommit memory.
    package func lend(_ byteCount: Int) -> Loan? {
        let mapped = Self.mappedByteCount(byteCount)
        let found = state.withLock { state -> UnsafeMutableRawPointer? in
            // The mapping returned last is the most likely to be in a CPU cache.
            guard let index = state.held.lastIndex(where: { $0.memory.count == mapped }) else { return nil }
            let memory = state.held.remove(at: index).memory
            state.heldByteCount -= mapped
            state.lent[memory.baseAddress!] = mapped
            return memory.baseAddress
        }
        if let found {
            return Loan(memory: UnsafeMutableRawBufferPointer(start: found, count: byteCount), isReused: true)
        }
        guard let address = Self.map(mapped) else { return nil }
        state.withLock { $0.lent[address] = mapped }
        return Loan(memory: UnsafeMutableRawBufferPointer(start: address, count: byteCount), isReused: false)
    }

    package func giveBack(_ address: UnsafeMutableRawPointer) {
        let now = ContinuousClock.now
        let (excess, isDue) = state.withLock { state in
            guard let byteCount = state.lent.removeValue(forKey: address) else {
                preconditionFailure("the borrower returns memory exactly once")
            }
            state.held.append(
                Held(memory: UnsafeMutableRawBufferPointer(start: address, count: byteCount), since: now))
            state.heldByteCount += byteCount
            var count = 0
            while state.heldByteCount > heldByteCountMax {
                state.heldByteCount -= state.held[count].memory.count
                count += 1
            }
            let excess = Array(state.held.prefix(count))
            state.held.removeFirst(count)
            let isDue = !state.isWatched && !state.held.isEmpty
            if isDue { state.isWatched = true }
            return (excess, isDue)
        }
        Self.unmap(excess)
        if isDue { watch() }
    }

    /// Unmaps mappings kept since before an instant.
    package func release(heldBefore instant: ContinuousClock.Instant) {
        let idle = state.withLock { state in
            let idle = state.held.filter { $0.since < instant }
            state.held.removeAll { $0.since < instant }
            state.heldByteCount -= idle.reduce(0) { $0 + $1.memory.count }
            return idle
        }
        Self.unmap(idle)
    }

    /// Checks again after each `idleTime`, until nothing is kept.
    private func watch() {
        let nanoseconds = idleTime / .nanoseconds(1)
        DispatchQueue.global(qos: .utility).asyncAfter(deadline: .now() + .nanoseconds(Int(nanoseconds))) { [self] in
            release(heldBefore: ContinuousClock.now - idleTime)
            let goesOn = state.withLock { state in
                state.isWatched = !state.held.isEmpty
                return state.isWatched
            }
            if goesOn { watch() }
        }
    }

    /// In steps of an eighth, so that payloads of similar sizes share mappings.
    private static func mappedByteCount(_ byteCount: Int) -> Int {
        let largest = 1 << (Int.bitWidth - 1 - max(1, byteCount).leadingZeroBitCount)
        let step = max(4096, largest / 8)
        return (byteCount + step - 1) / step * step
    }

    /// Whole huge pages where it is as large as one.
    private static func map(_ byteCount: Int) -> UnsafeMutableRawPointer? {
        let slack = byteCount >= hugePage ? hugePage : 0
        guard let start = mmap(nil, byteCount + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
            start != MAP_FAILED
        else { return nil }
        guard slack > 0 else { return start }
        let before = (hugePage - Int(bitPattern: start) % hugePage) % hugePage
        if before > 0 { munmap(start, before) }
        if slack > before { munmap(start + before + byteCount, slack - before) }
        // Only advice: without huge pages it is slower but correct.
        madvise(start + before, byteCount, MADV_HUGEPAGE)
        return start + before
    }

    private static func unmap(_ mappings: [Held]) {
        for mapping in mappings { munmap(mapping.memory.baseAddress!, mapping.memory.count) }
    }
}
