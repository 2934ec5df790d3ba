// SPDX-License-Identifier: Apache-2.0

internal import DCPAttention
internal import DCPCore
internal import NIOCore
internal import Synchronization

/// An attention computation in progress: `preparing < cutting < attending < finishing < over`, each in pieces of
/// bounded time.
///
/// Small entries are computed when they are split, while their queries and panels are in a CPU cache, and not dealt
/// again. They are also merged then and released, so that the next entry finds its memory in the cache.
final class AttentionRun: ComputeJob {
    private enum Stage {
        /// One thread makes the job.
        case preparing
        /// A few entries at a time are split into pieces.
        case cutting
        case attending
        /// One thread at a time merges pieces.
        case finishing
        case over
    }

    private struct State {
        var stage = Stage.preparing
        var job: AttentionJob?
        var begin: NIODeadline?
        /// Entries that are split and not merged.
        var entries: [AttentionJob.Entry?] = []
        /// Entries that a thread has begun to split, and entries that are split.
        var taken = 0
        var cut = 0
        /// Entries that were too large to be computed when they were split, by entry.
        var large: [(entry: Int, work: AttentionWork)] = []
        /// Their pieces.
        var hands: [PieceHand] = []
        var ended = 0
        /// Hands in progress; the one left most recently is continued first, while it is in a cache.
        var left: [any PortionRun] = []
        /// The destination of merged entries; nil while a thread has it.
        var states: Kept<AttentionStates>?
        /// The entry and tile to merge next, when all pieces have ended.
        var next = (entry: 0, tile: 0)
        var failure: ServiceError?
        var kernelTime = TimeAmount.zero
    }

    private let state = Mutex(State())
    /// Of the pool.
    private let threads: Int
    private let isCancelled: @Sendable () -> Bool
    private let prepare: @Sendable () throws(ServiceError) -> AttentionJob?
    private let completion: @Sendable (Result<AttentionResult, ServiceError>) -> Void

    /// Entries that are split at once.
    private static let entriesAtOnce = 8
    /// An entry that takes no longer than this is computed when it is split.
    private static let smallCostMax = PieceRun.multiplicationsMax / 16
    /// Outputs that are merged at once, in about 0.4 ms with the page faults of new memory.
    private static let outputsAtOnce = 1 << 17
    /// Of preparing and of finishing.
    static let serialPiece = NextPieces(count: 1, cost: PieceRun.multiplicationsMax / 2)

    init(
        threads: Int, isCancelled: @escaping @Sendable () -> Bool,
        prepare: @escaping @Sendable () throws(ServiceError) -> AttentionJob?,
        completion: @escaping @Sendable (Result<AttentionResult, ServiceError>) -> Void
    ) {
        self.threads = threads
        self.isCancelled = isCancelled
        self.prepare = prepare
        self.completion = completion
    }

    private enum Piece {
        case prepare
        case cut(Range<Int>, AttentionJob)
        case run(any PortionRun)
        case finish
    }

    func computePiece(_ goesOn: () -> Void) -> NextPieces {
        let start = NIODeadline.now()
        let piece = state.withLock { state -> Piece in
            switch state.stage {
            case .preparing:
                state.begin = state.begin ?? start
                return .prepare
            case .cutting:
                guard let job = state.job else { preconditionFailure("a job is split only after it was prepared") }
                let some = state.taken..<min(state.taken + Self.entriesAtOnce, job.entries)
                state.taken = some.upperBound
                return .cut(some, job)
            case .attending:
                if let run = state.left.popLast() { return .run(run) }
                let next = state.hands[state.taken]
                state.taken += 1
                return .run(next.run())
            case .finishing: return .finish
            case .over: preconditionFailure("a finished job has no pieces")
            }
        }
        switch piece {
        case .prepare: return prepareSome()
        case .cut(let some, let job): return cut(some, of: job)
        case .run(let run): return advance(run, since: start)
        case .finish: return finishSome()
        }
    }

    private func prepareSome() -> NextPieces {
        do throws(ServiceError) {
            guard let job = try prepare() else { return Self.serialPiece }
            let count = (job.entries + Self.entriesAtOnce - 1) / Self.entriesAtOnce
            let states = Kept(AttentionStates.unspecified(rows: job.rows, valueDim: job.valueDim))
            state.withLock { state in
                state.job = job
                state.states = states
                state.entries = [AttentionJob.Entry?](repeating: nil, count: job.entries)
                state.stage = .cutting
            }
            guard count > 0 else { return finish() }
            return NextPieces(count: count, cost: PieceRun.multiplicationsMax / 4)
        } catch {
            return end(.failure(error))
        }
    }

    private func cut(_ some: Range<Int>, of job: AttentionJob) -> NextPieces {
        var made: [(index: Int, entry: AttentionJob.Entry)] = []
        var large: [(entry: Int, work: AttentionWork)] = []
        var kernelTime = TimeAmount.zero
        var failure: ServiceError?
        do throws(ServiceError) {
            for index in some {
                guard !isCancelled() else { throw AttentionResult.cancelled }
                let entry = try job.entry(index)
                if let work = entry.work {
                    guard work.pieceCount <= 1, work.cost <= Self.smallCostMax else {
                        large.append((index, work))
                        made.append((index, entry))
                        continue
                    }
                    let start = NIODeadline.now()
                    for piece in 0..<work.pieceCount { work.run(piece: piece) }
                    kernelTime = kernelTime + (NIODeadline.now() - start)
                }
                if try !mergesAtOnce(index, entry, of: job) {
                    // The data that it read is no longer needed.
                    made.append((index, entry.withoutOwner))
                }
            }
        } catch {
            failure = error
        }
        let all = state.withLock { state -> [(entry: Int, work: AttentionWork)]? in
            for (index, entry) in made { state.entries[index] = entry }
            state.large += large
            state.kernelTime = state.kernelTime + kernelTime
            state.failure = state.failure ?? failure
            state.cut += some.count
            return state.cut == job.entries ? state.large : nil
        }
        // Another thread splits the last ones.
        guard let all else { return .none }
        return deal(all) ?? finish()
    }

    /// Merges an entry that is computed, unless another thread is merging one: then it is merged at the end.
    private func mergesAtOnce(
        _ index: Int, _ entry: AttentionJob.Entry, of job: AttentionJob
    ) throws(ServiceError) -> Bool {
        guard let states = state.withLock({ $0.states.take() }) else { return false }
        defer { state.withLock { $0.states = states } }
        if let work = entry.work { work.finish(into: &states.value) } else { try job.own(index, &states.value) }
        return true
    }

    /// All entries are split: finds what they share, and deals the pieces.
    /// - Returns: nil when there are none to compute.
    private func deal(_ large: [(entry: Int, work: AttentionWork)]) -> NextPieces? {
        let pieces = DealtPiece.all(of: large.sorted { $0.entry < $1.entry }.map(\.work))
        let hands = PieceHand.deal(pieces, threads: threads)
        return state.withLock { state in
            guard state.failure == nil, !hands.isEmpty else { return nil }
            state.hands = hands
            state.stage = .attending
            state.taken = 0
            return NextPieces(count: hands.count, cost: hands.reduce(0) { max($0, $1.cost) })
        }
    }

    private func advance(_ run: any PortionRun, since start: NIODeadline) -> NextPieces {
        let goesOn = !isCancelled() && run.advance()
        let time = NIODeadline.now() - start
        return state.withLock { state -> NextPieces? in
            state.kernelTime = state.kernelTime + time
            if goesOn {
                state.left.append(run)
                return NextPieces(count: 1, cost: PieceRun.multiplicationsMax)
            }
            state.ended += 1
            return state.ended == state.hands.count ? nil : NextPieces.none
        } ?? finish()
    }

    /// All pieces have ended: begins to merge them, the first one at once.
    private func finish() -> NextPieces {
        if let failure = state.withLock({ $0.failure }) { return end(.failure(failure)) }
        state.withLock { $0.stage = .finishing }
        return finishSome()
    }

    private func finishSome() -> NextPieces {
        guard !isCancelled() else { return end(.failure(AttentionResult.cancelled)) }
        guard let states = state.withLock({ $0.states.take() }) else {
            preconditionFailure("pieces are merged by one thread at a time")
        }
        let (next, entries, job) = state.withLock { ($0.next, $0.entries, $0.job) }
        guard let job else { preconditionFailure("a job is merged only after it was prepared") }
        var (index, tile) = next
        var outputs = 0
        while index < entries.count, outputs < Self.outputsAtOnce {
            guard let entry = entries[index] else {
                // Merged when it was split.
                index += 1
                continue
            }
            guard let work = entry.work else {
                do throws(ServiceError) { try job.own(index, &states.value) } catch { return end(.failure(error)) }
                outputs += job.rows / job.entries * job.valueDim
                index += 1
                continue
            }
            let first = tile
            repeat {
                if tile < work.tileCount { outputs += work.outputCount(ofTile: tile) }
                tile += 1
            } while tile < work.tileCount && outputs < Self.outputsAtOnce
            work.finish(tiles: first..<min(tile, work.tileCount), into: &states.value)
            if tile >= work.tileCount { (index, tile) = (index + 1, 0) }
        }
        guard index == entries.count else {
            state.withLock { state in
                state.states = states
                state.next = (index, tile)
            }
            return Self.serialPiece
        }
        let span = state.withLock { state in
            ComputeSpan(begin: state.begin ?? .now(), end: .now(), kernelTime: state.kernelTime)
        }
        return end(.success(AttentionResult(states: states.value, span: span)))
    }

    private func end(_ result: Result<AttentionResult, ServiceError>) -> NextPieces {
        // Released without the lock: readers among them end their transactions.
        let held = state.withLock { state in
            defer {
                state = State()
                state.stage = .over
            }
            return state
        }
        withExtendedLifetime(held) {}
        completion(result)
        return .none
    }
}
