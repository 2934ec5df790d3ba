public import DCPCore
public import DCPWire

/// Where each layer of each sequence ends, steps in flight included, as a value.
///
/// A step starts exactly where its layer ends: that rule alone makes appends happen once (TRAPS 29). Steps may follow
/// each other before the first is finished; a later one's context waits until the earlier one's tokens are in place.
public struct LayerCursors: Sendable {
    /// What a step on a layer may do.
    public enum Admission: Hashable, Sendable {
        /// New tokens: reserve them. `isContextReady` tells whether everything before them is in the cache.
        case append(isContextReady: Bool)
        /// The tokens are there from the same step sent before; only the attention is computed again.
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
        /// The one before it: the last again when that is taken back.
        var former: Step?
    }

    private var cursors: [SequenceID: [Int: Cursor]] = [:]

    public init() {}

    /// Admits one entry of a step, or refuses it.
    ///
    /// - Parameter length: the layer's length in the cache, for a layer this value has not seen.
    /// - Throws: `.positionMismatch`, with both numbers; `.conflict` for a repeat of a step still in flight.
    public mutating func admit(_ entry: StepRequest.Entry, tag: Tag, layer: Int, length: Int)
        throws(ServiceError) -> Admission
    {
        var cursor = cursors[entry.sequence]?[layer] ?? Cursor(reserved: length, appended: length)
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
        cursors[entry.sequence, default: [:]][layer] = cursor
        return .append(isContextReady: cursor.appended == entry.position)
    }

    /// The tokens of an admitted entry are in the cache.
    public mutating func appended(_ entry: StepRequest.Entry, layer: Int) {
        guard var cursor = cursors[entry.sequence]?[layer] else { return }
        cursor.appended = max(cursor.appended, entry.position + entry.count)
        cursors[entry.sequence]?[layer] = cursor
    }

    /// Admits an entry of a step that only attends, or refuses it. It may see what steps in flight bring, once that is there.
    ///
    /// - Parameter length: as in `admit`.
    /// - Throws: `.positionMismatch`, with both numbers.
    public func checkQueries(_ entry: StepRequest.Entry, layer: Int, length: Int) throws(ServiceError) {
        let reserved = cursors[entry.sequence]?[layer]?.reserved ?? length
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
        (cursors[sequence]?[layer]?.appended ?? length()) >= tokens
    }

    /// An admitted entry was taken back, or its step was refused for another: the layer ends where it began. The step before
    /// it may then be sent again.
    public mutating func rolledBack(_ entry: StepRequest.Entry, layer: Int) {
        guard let cursor = cursors[entry.sequence]?[layer], cursor.reserved > entry.position else { return }
        let former = cursor.former.flatMap { $0.position + $0.count == entry.position ? $0 : nil }
        cursors[entry.sequence]?[layer] = Cursor(
            reserved: entry.position, appended: min(cursor.appended, entry.position), last: former)
    }

    /// Forgets a sequence whose length was changed by something else than steps.
    public mutating func forget(_ sequence: SequenceID) {
        cursors[sequence] = nil
    }

    public mutating func forgetAll() { cursors = [:] }
}
