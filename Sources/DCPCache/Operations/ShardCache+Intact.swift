// SPDX-License-Identifier: Apache-2.0

internal import DCPAttention
internal import DCPCore
internal import DCPStore

extension ShardCache {
    /// Refuses lengths that reach into what was found damaged.
    func checkIntact(_ core: SequenceCache.Core, upTo end: LocalIndex) throws(ServiceError) {
        guard let damage = core.damage, end > damage.start else { return }
        let position = shard.position(of: damage.start)
        throw fail(
            .storeDamaged, "\(damage.message); truncate the sequence to \(position) tokens and prefill the rest.")
    }

    /// Reads a sealed block of a sequence completely and compares its checksums.
    func checkBlock(
        _ sequence: SequenceCache, layer: Int, index: Int, address: BlockAddress, lineage: Lineage?
    ) throws(ServiceError) {
        if let writer = lineage?.writer(ofBlock: index) {
            let key = BlockKey(model: sequence.model.id, writer: writer, layer: layer, index: index)
            let panels = sequence.model.panels[layer]
            if let payload = address.payload {
                if BlockRecord.isIntact(key, payload: payload, panels: panels) { return }
            } else if try assemble(key, panels, mayBeKept: false) != nil {
                return
            }
        }
        throw damagedBlock(index, layer: layer, of: sequence.id)
    }

    func damagedBlock(_ index: Int, layer: Int, of id: SequenceID) -> ServiceError {
        fail(
            .storeDamaged,
            "Block \(index) of layer \(layer) of \(id) in the store of \(rank) fails its checksum, or a part of it is missing"
        )
    }
}
