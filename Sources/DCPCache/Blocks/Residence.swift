// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import Synchronization

/// The data in RAM of a sequence in use: the addresses of each layer's blocks in the store, and its open blocks.
///
/// A fully committed idle sequence has none: it is loaded from the store at the next use. Users hold a reference, so
/// that it is not dropped meanwhile.
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
