package import DCPCore

/// Where payloads lie in a ring, as its writer knows it. Kept in the writer's own memory: of all this the reader says one number
/// only, how many payloads it has taken.
///
/// Payloads are taken in the order in which they were placed, and each lies in one piece. When all have been taken the next lies
/// at the beginning again, so that short ones use the same few pages, which stay in the caches.
package struct RingSpace {
    private let byteCount: Int
    /// Of payloads that have not been taken, in the order they were placed.
    private var places: [Range<Int>] = []
    private var takenCount: UInt64 = 0

    /// Two payloads share no line of a cache.
    static let alignment = 64
    /// Payloads that wait to be taken.
    package static let placesMax = 256

    package init(byteCount: Int) { self.byteCount = byteCount }

    /// What a payload takes.
    static func span(_ byteCount: Int) -> Int { (byteCount + alignment - 1) / alignment * alignment }

    /// The reader has taken so many since the beginning.
    /// - Throws: `.protocolViolation` for a number that it cannot have come to.
    package mutating func taken(_ count: UInt64) throws(ServiceError) {
        let newCount = count &- takenCount
        guard newCount <= UInt64(places.count) else {
            throw ServiceError(
                .protocolViolation,
                "The peer says that it took \(newCount) payloads out of shared memory, but only \(places.count) were "
                    + "there; it has a bug."
            )
        }
        places.removeFirst(Int(newCount))
        takenCount = count
    }

    /// Where the next payload may lie; nil without room.
    package mutating func place(_ byteCount: Int) -> Int? {
        let span = Self.span(byteCount)
        guard places.count < Self.placesMax, let offset = offset(of: span) else { return nil }
        places.append(offset..<offset + span)
        return offset
    }

    private func offset(of span: Int) -> Int? {
        guard let first = places.first, let last = places.last else { return span <= byteCount ? 0 : nil }
        // Behind the last, up to the end or to the first; at the beginning, before the first.
        if last.lowerBound < first.lowerBound {
            return first.lowerBound - last.upperBound >= span ? last.upperBound : nil
        }
        if byteCount - last.upperBound >= span { return last.upperBound }
        return first.lowerBound >= span ? 0 : nil
    }
}
