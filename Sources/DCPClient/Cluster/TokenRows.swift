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

    /// Some of the heads, head-major as the wire wants them: `[slice][tokens][dim]`.
    func headMajor(_ slice: Range<Int>) -> ByteBuffer {
        precondition(slice.lowerBound >= 0 && slice.upperBound <= heads)
        let rowByteCount = dim * dataType.byteCount
        var buffer = ByteBufferAllocator().buffer(capacity: slice.count * tokens * rowByteCount)
        bytes.withUnsafeBytes { bytes in
            for head in slice {
                for token in 0..<tokens {
                    let start = (token * heads + head) * rowByteCount
                    buffer.writeBytes(UnsafeRawBufferPointer(rebasing: bytes[start..<start + rowByteCount]))
                }
            }
        }
        return buffer
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
