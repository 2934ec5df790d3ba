// SPDX-License-Identifier: Apache-2.0

internal import Synchronization

/// Limits the bytes of unfinished frames over all links of a daemon.
///
/// A peer may send a frame in parts, so an identified peer could make a daemon hold the largest frame for each of its
/// links. Beyond the limit the oldest frames are refused: a frame that has taken long is more likely to be stuck than a
/// new one, and new peers are served. Safe to use from any thread: the links of a daemon share a loop today, but
/// nothing here depends on it.
public final class UnfinishedFrames: Sendable {
    /// Bytes per link that are not counted: most frames are smaller, and other peers' large frames do not cause their
    /// refusal.
    static let uncountedByteCount = 64 << 10

    public let byteCountMax: Int
    private let state = Mutex(State())

    private struct Unfinished {
        let number: UInt64
        var byteCount = 0
        let refuse: @Sendable (UInt64) -> Void
    }

    private struct State {
        var byteCount = 0
        /// Ordered by their start.
        var frames: [Unfinished] = []
        var next: UInt64 = 0
    }

    /// - Parameter byteCountMax: at least the largest frame, which otherwise could never arrive.
    public init(byteCountMax: Int = 1 << 30) { self.byteCountMax = byteCountMax }

    /// Starts counting a frame. `refuse` is called with its number, from any thread, at most once, if it must be
    /// dropped.
    func begin(refuse: @escaping @Sendable (UInt64) -> Void) -> UInt64 {
        state.withLock { state in
            state.next += 1
            state.frames.append(Unfinished(number: state.next, refuse: refuse))
            return state.next
        }
    }

    /// The number of its bytes received so far.
    func update(_ number: UInt64, byteCount: Int) {
        let refused = state.withLock { state -> ArraySlice<Unfinished> in
            guard let index = state.frames.firstIndex(where: { $0.number == number }) else { return [] }
            state.byteCount += byteCount - state.frames[index].byteCount
            state.frames[index].byteCount = byteCount
            var count = 0
            while state.byteCount > byteCountMax {
                state.byteCount -= state.frames[count].byteCount
                count += 1
            }
            defer { state.frames.removeFirst(count) }
            return state.frames.prefix(count)
        }
        for frame in refused { frame.refuse(frame.number) }
    }

    /// It is complete, or its link is closed.
    func end(_ number: UInt64) {
        state.withLock { state in
            guard let index = state.frames.firstIndex(where: { $0.number == number }) else { return }
            state.byteCount -= state.frames.remove(at: index).byteCount
        }
    }
}
