// SPDX-License-Identifier: Apache-2.0

public import DCPCore
internal import NIOCore

/// Queries, keys or values of a step's tokens, token-major as models produce them: `[tokens][heads][dim]`.
public struct TokenRows: Sendable {
    public let dataType: DataType
    public let tokens: Int
    public let heads: Int
    public let dim: Int
    private let bytes: [UInt8]

    /// - Parameter bytes: `tokens * heads * dim` elements of `dataType`, little-endian.
    public init(dataType: DataType, tokens: Int, heads: Int, dim: Int, bytes: [UInt8]) {
        precondition(bytes.count == tokens * heads * dim * dataType.byteCount, "the bytes are not of this shape")
        self.dataType = dataType
        self.tokens = tokens
        self.heads = heads
        self.dim = dim
        self.bytes = bytes
    }

    public init(_ values: [Float], tokens: Int, heads: Int, dim: Int) {
        self.init(
            dataType: .float32, tokens: tokens, heads: heads, dim: dim, bytes: values.withUnsafeBytes { Array($0) })
    }

    /// - Throws: `.invalidRequest`, with the first number that is NaN, infinite or beyond its limit.
    func check(_ tensor: InputLimits.Tensor, _ limits: InputLimits) throws(ServiceError) {
        let found: (index: Int, value: Float)? = bytes.withUnsafeBytes { bytes in
            dataType.firstBeyond(limits.magnitudeMax(of: tensor), in: bytes).map {
                ($0, dataType.float(at: $0, of: bytes))
            }
        }
        guard let found else { return }
        let (token, head) = (found.index / dim).quotientAndRemainder(dividingBy: heads)
        throw limits.error(tensor, found.value, head: head, token: token)
    }

    private var rowByteCount: Int { dim * dataType.byteCount }

    func byteCount(_ slice: Range<Int>, tokens: Int) -> Int { slice.count * tokens * rowByteCount }

    /// Writes some of the heads, head-major as the wire wants them: `[slice][tokens][dim]`.
    /// - Parameter chosen: which tokens, by rising number; nil for all.
    func write(_ slice: Range<Int>, of chosen: [UInt32]? = nil, to buffer: inout ByteBuffer) {
        precondition(slice.lowerBound >= 0 && slice.upperBound <= heads)
        let count = chosen?.count ?? tokens
        let byteCount = byteCount(slice, tokens: count)
        bytes.withUnsafeBytes { bytes in
            _ = buffer.writeWithUnsafeMutableBytes(minimumWritableBytes: byteCount) { target in
                guard let source = bytes.baseAddress, let target = target.baseAddress else { return 0 }
                // Token after token: what is read follows each other, and so does what is written of each head.
                for row in 0..<count {
                    let token = chosen.map { Int($0[row]) } ?? row
                    for (place, head) in slice.enumerated() {
                        (target + (place * count + row) * rowByteCount).copyMemory(
                            from: source + (token * heads + head) * rowByteCount, byteCount: rowByteCount)
                    }
                }
                return byteCount
            }
        }
    }
}

/// A step's answer for all query heads, token-major.
public struct AttentionOutput: Sendable {
    public let tokens: Int
    /// Hq.
    public let heads: Int
    public let valueDim: Int
    /// `[tokens][heads][valueDim]`
    public internal(set) var outputs: [Float]
    /// `[tokens][heads]`, natural logarithm; empty when the step did not ask for it.
    public internal(set) var lse: [Float]

    init(tokens: Int, heads: Int, valueDim: Int, wantsLSE: Bool) {
        self.tokens = tokens
        self.heads = heads
        self.valueDim = valueDim
        outputs = [Float](repeating: 0, count: tokens * heads * valueDim)
        lse = [Float](repeating: 0, count: wantsLSE ? tokens * heads : 0)
    }

    /// Puts a rank's head-major slice in its place.
    mutating func insert(heads slice: Range<Int>, outputs part: ByteBuffer, lse partLSE: ByteBuffer?) {
        precondition(part.readableBytes == slice.count * tokens * valueDim * 4)
        let (tokens, heads, valueDim) = (tokens, heads, valueDim)
        part.withUnsafeReadableBytes { bytes in
            outputs.withUnsafeMutableBytes { outputs in
                for (index, head) in slice.enumerated() {
                    for token in 0..<tokens {
                        let source = (index * tokens + token) * valueDim * 4
                        let target = (token * heads + head) * valueDim * 4
                        UnsafeMutableRawBufferPointer(rebasing: outputs[target..<target + valueDim * 4])
                            .copyMemory(from: UnsafeRawBufferPointer(rebasing: bytes[source..<source + valueDim * 4]))
                    }
                }
            }
        }
        guard let partLSE, !lse.isEmpty else { return }
        precondition(partLSE.readableBytes == slice.count * tokens * 4)
        partLSE.withUnsafeReadableBytes { bytes in
            for (index, head) in slice.enumerated() {
                for token in 0..<tokens {
                    lse[token * heads + head] = bytes.loadUnaligned(
                        fromByteOffset: (index * tokens + token) * 4, as: Float.self)
                }
            }
        }
    }
}
