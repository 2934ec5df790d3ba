// SPDX-License-Identifier: Apache-2.0

internal import DCPAttention
public import DCPCore
internal import DCPOracle

/// Settings shared by all measurements: directory, runs, seed, and cancellation.
public struct Bench: Sendable {
    public var repetition: Repetition
    public var seed: UInt64
    public var directory: ScratchDirectory
    public var interruption: Interruption
    /// Of scores, the standard deviation; 1 unless told.
    public var scoreDeviation: Float = 1
    /// Says what is going on, for a person who waits.
    public var progress: @Sendable (String) -> Void

    public init(
        repetition: Repetition, seed: UInt64, directory: ScratchDirectory, interruption: Interruption,
        progress: @escaping @Sendable (String) -> Void
    ) {
        self.repetition = repetition
        self.seed = seed
        self.directory = directory
        self.interruption = interruption
        self.progress = progress
    }

    /// As peaked as a trained model's: the median over rows of the most peaked layer of the fixture `smollm2-trace`, whose three
    /// layers have 1.1, 2.3 and 1.9.
    public static let peakedDeviation: Float = 2.3

    /// Seeded queries of all heads, uniform in -3...3: with the keys' -1...1 and a scale of 1 / sqrt(Dk), scores have a
    /// standard deviation of one. For another they are as much larger.
    func queries(_ attention: LayerAttention, tokens: Int, _ kind: QueryKind) -> QueryRows {
        var random = SeededGenerator(seed: seed &+ 1)
        let heads = 0..<attention.queryHeads
        return QueryRows(
            heads: heads, tokens: tokens, keyDim: attention.keyDim,
            values: Rounding.rounded(
                random.floats(heads.count * tokens * attention.keyDim, limit: 3 * scoreDeviation), to: kind.dataType))
    }
}

/// Which numbers queries are. Kernels may have a faster way for those that bf16 holds, as models that compute in bf16
/// bring them.
public enum QueryKind: String, CaseIterable, Sendable {
    case bfloat16 = "bf16"
    case float32 = "f32"

    var dataType: DataType { self == .bfloat16 ? .bfloat16 : .float32 }

    /// - Throws: `.invalidConfiguration`.
    public init(option text: String) throws(ServiceError) {
        guard let kind = Self(rawValue: text.lowercased()) else {
            throw ServiceError(
                .invalidConfiguration, "\(text.debugDescription) in --queries is not a kind of query; use bf16 or f32.")
        }
        self = kind
    }
}
