// SPDX-License-Identifier: Apache-2.0

internal import DCPAttention
internal import DCPCache
internal import DCPConsole
internal import DCPCore

/// The keys and values that kernels attend over: the mapped pages of a real store.
final class KernelContext {
    private let store: BenchmarkStore

    /// Of one rank.
    static var layout: ContextLayout {
        get throws(ServiceError) { try ContextLayout(contextRanks: 1, interleave: 1, blockTokens: 64) }
    }

    init(_ shape: AttentionShape, _ format: CacheFormat, tokens: Int, _ bench: Bench) throws {
        let model = try shape.model(format)
        let byteCount = BenchmarkStore.diskByteCount(model, tokens: tokens)
        try bench.directory.requireRoom(byteCount)
        store = try BenchmarkStore(directory: bench.directory.fresh("store"), model: model)
        bench.progress(
            "writing \(tokens) tokens of \(format.name) keys\(shape.isLatent ? "" : " and values") into a store of about "
                + ByteFormat.format(byteCount))
        try store.fill(upTo: tokens, RowPattern(seed: bench.seed, dataType: format.rowType), bench.interruption)
    }

    /// Some tokens in unshared panels.
    static func panels(
        _ attention: LayerAttention, _ format: CacheFormat, tokens: Int, _ bench: Bench
    ) throws(ServiceError) -> NewTokenPanels {
        let layout = PanelLayout(
            attention, format, kvHeads: attention.kvHeads, blockTokens: try Self.layout.blockTokens)
        let chunk = KeyValueChunk(layout, tokens: tokens, dataType: format.rowType)
        chunk.fill(0..<tokens, RowPattern(seed: bench.seed, dataType: format.rowType))
        return try NewTokenPanels(layout: layout, rows: chunk.rows(tokens), tokens: 0..<tokens)
    }

    /// The blocks of the first tokens, for as long as their owner lives.
    func blocks(_ tokens: Int) throws(ServiceError) -> (blocks: KVBlocks, owner: any AnyObject & Sendable) {
        let reader = try store.context(tokens)
        let blocks = KVBlocks(layout: reader.layout, blocks: reader.blocks, tokens: reader.tokens, isMapped: true)
        return (blocks, reader)
    }

    /// Contexts of a batch's entries, made of the blocks of one sequence.
    /// - Parameter tokens: of each, beside a fork's own.
    func contexts(
        of batch: KernelBatch, _ tokens: Int
    ) throws(ServiceError) -> (contexts: [KVBlocks], owner: any AnyObject & Sendable) {
        let (all, owner) = try blocks(batch.storedTokens(tokens))
        let layout = all.layout, size = layout.blockTokens
        func part(_ range: Range<Int>) -> ArraySlice<UnsafeRawPointer> {
            all.blocks[range.lowerBound / size..<(range.upperBound + size - 1) / size]
        }
        let contexts = (0..<batch.count).map { index in
            switch batch {
            case .one: all
            case .sequences:
                KVBlocks(
                    layout: layout, blocks: Array(part(index * tokens..<(index + 1) * tokens)), tokens: tokens,
                    isMapped: true)
            case .forks:
                KVBlocks(
                    layout: layout,
                    blocks: Array(part(0..<tokens) + part(KernelBatch.own(of: index, after: tokens))),
                    tokens: tokens + KernelBatch.ownTokens, isMapped: true)
            }
        }
        return (contexts, owner)
    }
}

/// The sequences of one call.
public enum KernelBatch: Hashable, Sendable {
    case one
    /// Each with its own context.
    case sequences(Int)
    /// Each with `ownTokens` beside a context that all share.
    case forks(Int)

    static let ownTokens = 64

    /// Which tokens of the store are a fork's own.
    static func own(of index: Int, after tokens: Int) -> Range<Int> {
        tokens + index * ownTokens..<tokens + (index + 1) * ownTokens
    }

    var count: Int {
        switch self {
        case .one: 1
        case .sequences(let count), .forks(let count): count
        }
    }

    /// `16 forks`; nil for one sequence.
    var label: String? {
        switch self {
        case .one: nil
        case .sequences(let count): "\(count) sequences"
        case .forks(let count): "\(count) forks"
        }
    }

    func storedTokens(_ context: Int) -> Int {
        switch self {
        case .one: context
        case .sequences(let count): context * count
        case .forks(let count): context + count * Self.ownTokens
        }
    }

    /// - Throws: `.invalidConfiguration` for a context of several sequences that ends inside a block.
    func check(_ context: Int) throws(ServiceError) {
        guard self == .one || context % Self.ownTokens == 0 else {
            throw ServiceError(
                .invalidConfiguration,
                "\(context) tokens are not a multiple of \(Self.ownTokens), the block size of which the contexts of "
                    + "several sequences consist; choose another --context.")
        }
    }
}
