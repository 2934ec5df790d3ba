internal import Synchronization

/// The bytes of frames that have begun and not ended, of all links of a daemon, within a budget.
///
/// Nobody is asked to send a frame in one piece, so a peer that is known could have a daemon hold the largest frame for each of
/// its links. When the budget is passed, the frames that began first are refused: one that has been on its way for so long is
/// more likely to be stuck than one that has just begun, and a newcomer is served. Safe to use from any thread: the links of a
/// daemon share a loop today, and nothing here depends on that.
public final class UnfinishedFrames: Sendable {
    /// What a link may hold without being counted: most frames are smaller, and are refused by nobody else's large ones.
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
        /// In the order in which they began.
        var frames: [Unfinished] = []
        var next: UInt64 = 0
    }

    /// - Parameter byteCountMax: at least one frame of the largest size, or that could never come.
    public init(byteCountMax: Int = 1 << 30) { self.byteCountMax = byteCountMax }

    /// A frame has begun to be counted. `refuse` is called with its number, from any thread, at most once, when its bytes are wanted back.
    func begin(refuse: @escaping @Sendable (UInt64) -> Void) -> UInt64 {
        state.withLock { state in
            state.next += 1
            state.frames.append(Unfinished(number: state.next, refuse: refuse))
            return state.next
        }
    }

    /// How many of its bytes have come.
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

    /// It is whole, or its link is closed.
    func end(_ number: UInt64) {
        state.withLock { state in
            guard let index = state.frames.firstIndex(where: { $0.number == number }) else { return }
            state.byteCount -= state.frames.remove(at: index).byteCount
        }
    }
}
