// SPDX-License-Identifier: Apache-2.0

internal import DCPAttention
internal import DCPCache
internal import DCPCore
internal import DCPWire
internal import NIOCore
internal import Synchronization

/// What a step computes, on the pool's threads or on the event loop. Immutable but for what its jobs keep between their pieces
/// and the flag that stops it.
///
/// Each function returns at once; its completion is called once, on a compute thread or on the loop.
final class StepWork: Sendable {
    /// Where something is computed.
    enum Place {
        case threads
        /// Runs a body as a task of the loop; see `LoopWork`.
        case loop((_ body: @escaping @Sendable () -> Void) -> Void)

        var isOnThreads: Bool {
            switch self {
            case .threads: true
            case .loop: false
            }
        }
    }

    let plan: StepPlan
    let request: StepRequest
    let limits: InputLimits
    let layer: Int
    let cache: ShardCache
    let pool: ComputePool
    /// With which of the step's tokens are its.
    let entries: [(entry: StepRequest.Entry, tokens: Range<Int>)]
    let isCancelled = Atomic<Bool>(false)
    private let inputs: Mutex<InputCheck>
    /// How far the append has come.
    private let appended = Mutex(Appended())

    private struct Appended {
        /// The entry to go on with; those before it are in the cache.
        var next = 0
        /// The first of its rows, where only those of the owned tokens have come.
        var row = 0
    }

    init(plan: StepPlan, request: StepRequest, layer: Int, cache: ShardCache, pool: ComputePool) {
        self.plan = plan
        self.request = request
        limits = InputLimits(plan.attention, kvFormat: plan.kvFormat)
        self.layer = layer
        self.cache = cache
        self.pool = pool
        inputs = Mutex(InputCheck(of: request, plan, limits))
        var start = 0
        entries = request.entries.map { entry in
            defer { start += entry.count }
            return (entry, start..<start + entry.count)
        }
    }

    /// Pieces that have not begun are skipped. Completions are still called.
    func cancel() { isCancelled.store(true, ordering: .relaxed) }

    typealias Completion<Value> = @Sendable (Result<Value, ServiceError>) -> Void

    /// Checks some more of the step's tensors. Whichever job comes first, the others wait for it.
    /// - Returns: whether all have been checked.
    func checkInputs() throws(ServiceError) -> Bool {
        try inputs.withLock { (inputs) throws(ServiceError) in try inputs.advance() }
    }

    /// Entries and tokens that are appended at once: some 0.5 ms.
    private static let entriesAtOnce = 32
    private static let tokensAtOnce = 256

    /// The owned tokens into the cache, all entries or none. Waits for room, without a thread, while the cache makes some.
    func append(in place: Place, completion: @escaping Completion<Void>) {
        submit(in: place) { [self] in
            do throws(ServiceError) {
                guard !isCancelled.load(ordering: .relaxed) else {
                    throw ServiceError(.stepAborted, "The step was over before its tokens were appended.")
                }
                guard try checkInputs() else { return true }
                let (hasRoom, isDone) = try appended.withLock { (appended) throws(ServiceError) in
                    (try appendSome(&appended), appended.next == entries.count)
                }
                guard hasRoom else {
                    waitForRoom(completion: completion)
                    return false
                }
                guard isDone else { return true }
                completion(.success(()))
            } catch {
                takeBack()
                completion(.failure(error))
            }
            return false
        }
    }

    /// - Returns: false when one found no room.
    private func appendSome(_ appended: inout Appended) throws(ServiceError) -> Bool {
        var hasRoom = true
        try withRows { (rows) throws(ServiceError) in
            var tokenCount = 0
            for (entry, tokens) in entries[appended.next...].prefix(Self.entriesAtOnce) {
                guard tokenCount < Self.tokensAtOnce else { return }
                if plan.queryMode == .absent {
                    hasRoom = try cache.appendIfRoom(
                        sequence: entry.sequence, layer: layer, positions: Range<Position>(entry.positions),
                        owned: rows, from: appended.row)
                } else {
                    hasRoom = try cache.appendIfRoom(
                        sequence: entry.sequence, layer: layer, position: Position(entry.position), rows: rows,
                        tokens: tokens)
                }
                guard hasRoom else { return }
                appended.next += 1
                appended.row += plan.ownedIndices(of: entry).count
                tokenCount += entry.count
            }
        }
        return hasRoom
    }

    private func waitForRoom(completion: @escaping Completion<Void>) {
        cache.whenRoom { [self] refusal in
            guard let refusal else { return append(in: .threads, completion: completion) }
            submit(in: .threads) { [self] in
                takeBack()
                completion(.failure(refusal))
                return false
            }
        }
    }

    private func takeBack() {
        for entry in request.entries.prefix(appended.withLock(\.next)) {
            // Fails for a sequence that was closed meanwhile: its tokens are gone with it.
            try? cache.rewind(sequence: entry.sequence, layer: layer, length: Position(entry.position))
        }
    }

    func withRows(_ body: (KeyValueRows) throws(ServiceError) -> Void) throws(ServiceError) {
        try request.keys.withBytes { (keys) throws(ServiceError) in
            try request.values.withBytes { (values) throws(ServiceError) in
                try body(
                    KeyValueRows(
                        dataType: request.keyValueDataType, keys: keys, values: values, tokens: plan.keyValueTokens))
            }
        }
    }
}

extension PayloadPart {
    /// The bytes as a pointer; never nil, also for none.
    func withBytes(_ body: (UnsafeRawPointer) throws(ServiceError) -> Void) throws(ServiceError) {
        try withUnsafeBytes { (bytes) throws(ServiceError) in
            var nothing: UInt64 = 0
            try withUnsafePointer(to: &nothing) { (nothing) throws(ServiceError) in
                try body(bytes.baseAddress ?? UnsafeRawPointer(nothing))
            }
        }
    }
}
