// SPDX-License-Identifier: Apache-2.0

package import DCPCore

/// The writer's allocation of payloads in a ring.
///
/// It is in the writer's private memory; the reader reports only the number of payloads taken. Payloads are taken in
/// the order in which they were placed, and each is contiguous. When all have been taken, the next one starts at the
/// beginning, so that short payloads use the same few pages, which stay in the CPU caches.
package struct RingSpace {
    private let byteCount: Int
    /// Places of payloads that have not been taken, in order.
    private var places: [Range<Int>] = []
    private var takenCount: UInt64 = 0

    /// Two payloads never share a cache line.
    static let alignment = 64
    /// Payloads not taken yet.
    package static let placesMax = 256

    package init(byteCount: Int) { self.byteCount = byteCount }

    /// The bytes that a payload occupies.
    static func span(_ byteCount: Int) -> Int { (byteCount + alignment - 1) / alignment * alignment }

    /// The reader has taken this many since the beginning.
    /// - Throws: `.protocolViolation` for an impossible number.
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

    /// The place for the next payload; nil without room.
    package mutating func place(_ byteCount: Int) -> Int? {
        let span = Self.span(byteCount)
        guard places.count < Self.placesMax, let offset = offset(of: span) else { return nil }
        places.append(offset..<offset + span)
        return offset
    }

    private func offset(of span: Int) -> Int? {
        guard let first = places.first, let last = places.last else { return span <= byteCount ? 0 : nil }
        // After the last one, up to the end or to the first; or at the beginning, before the first.
        if last.lowerBound < first.lowerBound {
            return first.lowerBound - last.upperBound >= span ? last.upperBound : nil
        }
        if byteCount - last.upperBound >= span { return last.upperBound }
        return first.lowerBound >= span ? 0 : nil
    }
}
