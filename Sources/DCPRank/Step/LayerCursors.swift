// SPDX-License-Identifier: Apache-2.0

public import DCPCore
public import DCPWire

/// Where each layer of each sequence ends, steps in flight included, as a value.
///
/// A step must start exactly where its layer ends: this rule alone makes appends happen once (TRAPS 29). Steps may be
/// sent before earlier ones have finished; a later step's context waits until the earlier step's tokens are in the
/// cache.
///
/// The cache knows the length of a layer without steps in flight, so forgetting the layer loses only which step was the
/// last one and may be sent again. Layers are therefore forgotten after `idleMax` to twice as many others have been
/// used. Otherwise a hundred thousand conversations of a model with 80 layers would keep gigabytes.
public struct LayerCursors: Sendable {
    /// What a step on a layer may do.
    public enum Admission: Hashable, Sendable {
        /// New tokens: reserve them. `isContextReady` tells whether everything before them is in the cache.
        case append(isContextReady: Bool)
        /// The same step was sent before and its tokens are in the cache; only the attention is computed again.
        case `repeat`
    }

    private typealias Step = (tag: Tag, position: Int, count: Int)

    private struct Cursor {
        /// The layer's length with all admitted steps.
        var reserved: Int
        /// The layer's length in the cache.
        var appended: Int
        /// The step that was admitted last.
        var last: Step?
        /// The step before it, which becomes the last again if that one is rolled back.
        var former: Step?
    }

    private typealias Cursors = [SequenceID: [Int: Cursor]]

    /// The layers used most recently, and their number.
    private var recent: Cursors = [:]
    private var recentCount = 0
    /// The layers used before them. A layer in both counts as recent.
    private var former: Cursors = [:]
    private let idleMax: Int

    /// 20 MiB at the most, and 800 sequences of a model of 80 layers at least.
    public static let idleMax = 1 << 16

    public init(idleMax: Int = Self.idleMax) { self.idleMax = idleMax }

    /// How many layers are remembered; those with a step on its way among them.
    package var count: Int {
        recentCount
            + former.reduce(0) { sum, item in sum + item.value.count { recent[item.key]?[$0.key] == nil } }
    }

    private func cursor(_ sequence: SequenceID, _ layer: Int) -> Cursor? {
        recent[sequence]?[layer] ?? former[sequence]?[layer]
    }

    private mutating func use(_ sequence: SequenceID, _ layer: Int, _ cursor: Cursor) {
        if recent[sequence, default: [:]].updateValue(cursor, forKey: layer) == nil { recentCount += 1 }
        guard recentCount > idleMax else { return }
        // A layer with a step in flight stays, however long ago it was used.
        let busy = former.compactMapValues { layers in
            let busy = layers.filter { $0.value.appended < $0.value.reserved }
            return busy.isEmpty ? nil : busy
        }
        let idle = recent
        (recent, recentCount, former) = ([:], 0, idle)
        for (sequence, layers) in busy {
            for (layer, cursor) in layers where idle[sequence]?[layer] == nil {
                recent[sequence, default: [:]][layer] = cursor
                recentCount += 1
            }
        }
    }

    /// Admits one entry of a step, or refuses it.
    ///
    /// - Parameter length: the layer's length in the cache, for a layer this value has not seen.
    /// - Throws: `.positionMismatch`, with both numbers; `.conflict` for a repeat of a step still in flight.
    public mutating func admit(_ entry: StepRequest.Entry, tag: Tag, layer: Int, length: Int)
        throws(ServiceError) -> Admission
    {
        var cursor = cursor(entry.sequence, layer) ?? Cursor(reserved: length, appended: length)
        if let last = cursor.last, last.tag.isSameStep(as: tag), last.position == entry.position,
            last.count == entry.count
        {
            guard cursor.appended >= entry.position + entry.count else {
                throw ServiceError(.conflict, "\(tag) is already in flight; wait for its answer.")
            }
            return .repeat
        }
        guard entry.position == cursor.reserved else {
            throw ServiceError(
                .positionMismatch,
                "The step starts at position \(entry.position), but layer \(layer) of \(entry.sequence) has "
                    + "\(cursor.reserved) tokens; send the tokens from \(cursor.reserved) on.")
        }
        cursor.reserved = entry.position + entry.count
        cursor.former = cursor.last
        cursor.last = (tag, entry.position, entry.count)
        use(entry.sequence, layer, cursor)
        return .append(isContextReady: cursor.appended == entry.position)
    }

    /// The tokens of an admitted entry are in the cache.
    public mutating func appended(_ entry: StepRequest.Entry, layer: Int) {
        guard var cursor = cursor(entry.sequence, layer) else { return }
        cursor.appended = max(cursor.appended, entry.position + entry.count)
        use(entry.sequence, layer, cursor)
    }

    /// Admits an entry that brings no tokens, or refuses it. It may see tokens of steps in flight, once they are in the
    /// cache.
    ///
    /// - Parameter length: as in `admit`.
    /// - Throws: `.positionMismatch`, with both numbers.
    public func checkQueries(_ entry: StepRequest.Entry, layer: Int, length: Int) throws(ServiceError) {
        let reserved = cursor(entry.sequence, layer)?.reserved ?? length
        guard entry.positions.upperBound <= reserved else {
            throw ServiceError(
                .positionMismatch,
                "The step has queries at positions \(entry.position)..<\(entry.positions.upperBound) and does not append, but "
                    + "layer \(layer) of \(entry.sequence) has \(reserved) tokens; append the others first.")
        }
    }

    /// Whether the first `tokens` of a layer are in the cache.
    /// - Parameter length: as in `admit`.
    public func holds(_ tokens: Int, of sequence: SequenceID, layer: Int, length: @autoclosure () -> Int) -> Bool {
        (cursor(sequence, layer)?.appended ?? length()) >= tokens
    }

    /// An admitted entry was rolled back, or its step was refused because of another entry: the layer ends where it did
    /// before. The step before it may then be sent again.
    public mutating func rolledBack(_ entry: StepRequest.Entry, layer: Int) {
        guard let cursor = cursor(entry.sequence, layer), cursor.reserved > entry.position else { return }
        let former = cursor.former.flatMap { $0.position + $0.count == entry.position ? $0 : nil }
        use(
            entry.sequence, layer,
            Cursor(reserved: entry.position, appended: min(cursor.appended, entry.position), last: former))
    }

    /// Forgets a sequence whose length changed other than by a step.
    public mutating func forget(_ sequence: SequenceID) {
        recentCount -= recent.removeValue(forKey: sequence)?.count ?? 0
        former[sequence] = nil
    }

    public mutating func forgetAll() { self = LayerCursors(idleMax: idleMax) }
}
