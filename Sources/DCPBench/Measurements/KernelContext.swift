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

    /// Some tokens in panels that nobody else has.
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
}
