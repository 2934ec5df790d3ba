// SPDX-License-Identifier: Apache-2.0

public import DCPAttention
internal import DCPWire
internal import NIOCore

/// A rank's context states for the rows of the heads that one rank owns, in the form of the wire: the event loop copies
/// none of their numbers, neither to send nor to receive them.
public struct Partial: Hashable, Sendable {
    public let valueDim: Int
    /// `[rows][valueDim]`, Float32.
    let outputs: ByteBuffer
    /// `[rows]`, Float64.
    let lse: ByteBuffer

    init(valueDim: Int, outputs: ByteBuffer, lse: ByteBuffer) {
        self.valueDim = valueDim
        self.outputs = outputs
        self.lse = lse
    }

    /// A partial of all rows of some states.
    public init(_ states: AttentionStates) {
        self.init(
            valueDim: states.valueDim, outputs: ByteBuffer(floats: states.outputs[...]),
            lse: ByteBuffer(doubles: states.lse[...]))
    }

    public var rows: Int { lse.readableBytes / 8 }

    public var states: AttentionStates { states(ofRows: 0..<rows) }

    func states(ofRows rows: Range<Int>) -> AttentionStates {
        AttentionStates(
            valueDim: valueDim, outputs: outputs.floats(rows.lowerBound * valueDim..<rows.upperBound * valueDim),
            lse: lse.doubles(rows))
    }
}

/// The states of a rank's shard as its group exchanges them.
public enum ContextStates: Sendable {
    /// All-to-all: one for each rank, in rank order.
    case cut([Partial])
    /// All-gather and reduce-scatter.
    case whole(AttentionStates)
}

/// Makes the partials of some states, a few rows at a time.
package struct PartialCut {
    private let states: AttentionStates
    /// The heads of each rank, in rank order.
    private let rows: [Range<Int>]
    private var partials: [Partial] = []
    private var outputs = ByteBuffer()
    private var lse = ByteBuffer()
    private var next = 0

    init(_ states: AttentionStates, rows: [Range<Int>]) {
        self.states = states
        self.rows = rows
    }

    /// Copies the next rows.
    /// - Parameter outputsMax: how many outputs, about.
    /// - Returns: nil as long as there is more.
    package mutating func advance(outputsMax: Int) -> [Partial]? {
        let dim = states.valueDim
        var left = max(1, outputsMax / dim)
        while partials.count < rows.count, left > 0 {
            let own = rows[partials.count]
            if next == 0 {
                outputs = TensorMemory.buffer(byteCount: own.count * dim * 4)
                lse = ByteBufferAllocator().buffer(capacity: own.count * 8)
            }
            let some = own.lowerBound + next..<min(own.lowerBound + next + left, own.upperBound)
            outputs.write(states.outputs[some.lowerBound * dim..<some.upperBound * dim])
            lse.write(states.lse[some])
            left -= some.count
            next += some.count
            if next == own.count {
                partials.append(Partial(valueDim: dim, outputs: outputs, lse: lse))
                next = 0
            }
        }
        return partials.count == rows.count ? partials : nil
    }
}

extension ByteBuffer {
    init(floats: ArraySlice<Float>) { self.init(numbers: floats) }
    init(doubles: ArraySlice<Double>) { self.init(numbers: doubles) }

    private init<Number: BitwiseCopyable>(numbers: ArraySlice<Number>) {
        self = TensorMemory.buffer(byteCount: numbers.count * MemoryLayout<Number>.size)
        write(numbers)
    }

    var floats: [Float] { floats(0..<readableBytes / 4) }
    var doubles: [Double] { doubles(0..<readableBytes / 8) }

    func floats(_ range: Range<Int>) -> [Float] { numbers(range) }
    func doubles(_ range: Range<Int>) -> [Double] { numbers(range) }

    fileprivate mutating func write<Number: BitwiseCopyable>(_ numbers: ArraySlice<Number>) {
        // Little-endian machines only; the package does not build for another.
        _ = numbers.withUnsafeBytes { writeBytes($0) }
    }

    /// A copy, because a slice of a frame is not aligned.
    private func numbers<Number: BitwiseCopyable>(_ range: Range<Int>) -> [Number] {
        let size = MemoryLayout<Number>.size
        precondition(readableBytes % size == 0)
        return [Number](unsafeUninitializedCapacity: range.count) { numbers, count in
            withUnsafeReadableBytes { bytes in
                UnsafeMutableRawBufferPointer(numbers).copyMemory(
                    from: UnsafeRawBufferPointer(rebasing: bytes[range.lowerBound * size..<range.upperBound * size]))
            }
            count = range.count
        }
    }
}
