internal import DCPCore
internal import Synchronization

/// What is in RAM of a sequence that is in use: where the blocks of each layer are in the store, and its open block.
///
/// A sequence that is not used, and has committed all it has, has none: it is made again from the store at the next use. Who
/// works with one holds a reference to it, so that it is not given up meanwhile.
final class Residence: Sendable {
    let layers: [LayerCache]
    private let blocks = Atomic(0)
    private let account: ByteAccount

    /// - Parameter account: counts the bytes of all residences, without the blocks in RAM.
    init(_ layers: [LayerState], blocks: Int, account: ByteAccount) {
        self.layers = layers.map { LayerCache($0) }
        self.account = account
        account.add(layers.count * Self.layerByteCount)
        note(blocks: blocks)
    }

    /// It has so many sealed blocks in each layer.
    func note(blocks count: Int) {
        let former = blocks.exchange(count, ordering: .relaxed)
        account.add((count - former) * layers.count * MemoryLayout<BlockAddress>.stride)
    }

    deinit {
        account.add(
            -layers.count * (Self.layerByteCount + blocks.load(ordering: .relaxed) * MemoryLayout<BlockAddress>.stride))
    }

    /// Of a layer without blocks: the object and its arrays.
    private static let layerByteCount = MemoryLayout<LayerState>.stride + 96
}
