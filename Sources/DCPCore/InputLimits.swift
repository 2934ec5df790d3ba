// SPDX-License-Identifier: Apache-2.0

/// Limits for the numbers of a step, so that attention over them, now and later, stays within Float32.
///
/// A limit applies to each query or key separately: a key is checked once, when a step appends it, and every later
/// query may be multiplied with it. Ranks that hold different queries therefore make the same decision about the keys
/// that all of them receive. Checking the products within a step was rejected, because the keys of earlier steps are
/// not at hand.
public struct InputLimits: Hashable, Sendable {
    /// For queries: Dk products of two such numbers, times the scale, sum up to at most 2^126.
    public let query: Float
    /// For keys: the same, and within the cache format.
    public let key: Float
    /// For values: the largest number of the cache format, and numbers that are rounded to it.
    public let value: Float
    private let kvFormat: CacheFormat

    public init(_ attention: LayerAttention, kvFormat: CacheFormat) {
        func exponent(above number: Float) -> Int {
            Int(number.exponent) + (number.significand == 1 ? 0 : 1)
        }
        // Scores are scaled after the product, so a scale below 1 does not help.
        let left = 126 - exponent(above: Float(attention.keyDim)) - max(0, exponent(above: attention.scale))
        query = Float(sign: .plus, exponent: left >> 1, significand: 1)
        self.kvFormat = kvFormat
        value = kvFormat.rowType.inputMagnitudeMax
        key = min(query, value)
    }

    /// A tensor of a step, for the message that refuses it.
    public enum Tensor: Sendable {
        case query
        case key
        case value
    }

    public func magnitudeMax(of tensor: Tensor) -> Float {
        switch tensor {
        case .query: query
        case .key: key
        case .value: value
        }
    }

    /// Checks a tensor `[heads][tokens][dim]` in its wire format.
    /// - Parameters:
    ///   - tensor: which of a step's three.
    ///   - bytes: elements of `dataType`, unaligned.
    ///   - dataType: the dtype on the wire.
    ///   - firstHead: the number of its first head, for the message.
    ///   - tokens: the number of tokens.
    ///   - dim: the dimensions of a head.
    ///   - number: of a token of the tensor among the step's, for the message.
    /// - Throws: `.invalidRequest`, with the first number that is NaN, infinite or beyond its limit.
    public func check(
        _ tensor: Tensor, _ bytes: UnsafeRawBufferPointer, dataType: DataType, firstHead: Int, tokens: Int, dim: Int,
        number: (_ token: Int) -> Int = { $0 }
    ) throws(ServiceError) {
        guard let index = dataType.firstBeyond(magnitudeMax(of: tensor), in: bytes) else { return }
        let (head, token) = (index / dim).quotientAndRemainder(dividingBy: tokens)
        throw error(tensor, dataType.float(at: index, of: bytes), head: firstHead + head, token: number(token))
    }

    /// The error that refuses a number.
    public func error(_ tensor: Tensor, _ value: Float, head: Int, token: Int) -> ServiceError {
        let (name, headName) =
            switch tensor {
            case .query: ("query", "head")
            case .key: ("key", "KV head")
            case .value: ("value", "KV head")
            }
        let place = "The \(name) of token \(token) of the step, \(headName) \(head), "
        guard value.isFinite else {
            return ServiceError(
                .invalidRequest, place + "is \(value.isNaN ? "NaN" : "infinite"); correct the model's output.")
        }
        let limit = magnitudeMax(of: tensor)
        let reason =
            tensor == .query || limit == query
            ? "a score computed from such numbers overflows Float32. Correct the model's output."
            : "it overflows a KV cache of \(kvFormat.name). Correct the model's output, or choose a cache format with a wider "
                + "range."
        return ServiceError(.invalidRequest, place + "is \(value), beyond the limit of \(limit): " + reason)
    }
}

extension DataType {
    /// The largest number that rounds to a finite one of this type.
    public var inputMagnitudeMax: Float {
        switch self {
        case .bfloat16: Float(bitPattern: 0x7F7F_7FFF)
        case .float16: Float(65520).nextDown
        case .float32: .greatestFiniteMagnitude
        }
    }

    /// The index of the first element that is larger in magnitude than a positive limit, or NaN; nil when there is none.
    /// - Parameters:
    ///   - limit: positive.
    ///   - bytes: little-endian elements, unaligned.
    public func firstBeyond(_ limit: Float, in bytes: UnsafeRawBufferPointer) -> Int? {
        // The bits of a number without its sign are an integer that grows with the magnitude, and NaN is above all of
        // them. An addition makes exactly the numbers beyond the limit overflow into the sign bit. The loop handles two
        // or four elements at once and can be vectorised.
        let elementBits = byteCount * 8
        let signs = self == .float32 ? 0x8000_0000_8000_0000 as UInt64 : 0x8000_8000_8000_8000
        let ones = self == .float32 ? 0x0000_0001_0000_0001 as UInt64 : 0x0001_0001_0001_0001
        let added = (UInt64(1) << (elementBits - 1) - 1 - UInt64(magnitudeBits(notAbove: limit))) * ones
        let words = bytes.count / 8
        // In runs, so that the search for a faulty element is short.
        let run = 512
        for start in stride(from: 0, to: words, by: run) {
            let end = min(start + run, words)
            var beyond: UInt64 = 0
            for offset in stride(from: start * 8, to: end * 8, by: 8) {
                let value = bytes.loadUnaligned(fromByteOffset: offset, as: UInt64.self)
                beyond |= (value & ~signs) &+ added
            }
            if beyond & signs != 0 {
                return (start * 8 / byteCount..<end * 8 / byteCount).first { isBeyond(limit, at: $0, of: bytes) }
            }
        }
        return (words * 8 / byteCount..<bytes.count / byteCount).first { isBeyond(limit, at: $0, of: bytes) }
    }

    private func isBeyond(_ limit: Float, at index: Int, of bytes: UnsafeRawBufferPointer) -> Bool {
        !(float(at: index, of: bytes).magnitude <= limit)
    }

    /// The bits of this type's largest number that is not above a positive one.
    private func magnitudeBits(notAbove limit: Float) -> UInt32 {
        switch self {
        case .bfloat16: return limit.bitPattern >> 16
        case .float16:
            let nearest = Float16(limit)
            return UInt32((Float(nearest) > limit ? nearest.nextDown : nearest).bitPattern)
        case .float32: return limit.bitPattern
        }
    }

    /// The element at an index of little-endian bytes, at any alignment.
    public func float(at index: Int, of bytes: UnsafeRawBufferPointer) -> Float {
        switch self {
        case .bfloat16:
            Float(
                bitPattern: UInt32(bytes.loadUnaligned(fromByteOffset: index * 2, as: UInt16.self)) << 16)
        case .float16:
            Float(Float16(bitPattern: bytes.loadUnaligned(fromByteOffset: index * 2, as: UInt16.self)))
        case .float32:
            Float(bitPattern: bytes.loadUnaligned(fromByteOffset: index * 4, as: UInt32.self))
        }
    }
}
