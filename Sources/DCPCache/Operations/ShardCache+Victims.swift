// SPDX-License-Identifier: Apache-2.0

public import DCPCore
internal import DCPStore
internal import Synchronization

extension ShardCache {
    /// Which sequences to close so that the store gets rid of what it wants to (`evictionByteCount`): the first of an
    /// order whose closing is enough, without those that free nothing. All that free something when that is not enough.
    public func victims(among order: [SequenceID]) -> [SequenceID] {
        victims(among: order, freeing: evictionByteCount)
    }

    package func victims(among order: [SequenceID], freeing wanted: Int) -> [SequenceID] {
        guard wanted > 0 else { return [] }
        let held = sequenceCaches.withLock { caches in order.compactMap { caches[$0] } }
        let closing = lineages.withLock { ClosingOrder(held.map(\.id), in: $0) }
        let closingRows = rowLineages.withLock { ClosingOrder(held.map(\.id), in: $0) }
        var (count, freed) = (0, 0)
        while count < held.count, freed < wanted {
            let model = held[count].model
            freed += closing.blockCounts[count] * model.blockPagesInAll * environment.pageByteCount
            freed += closingRows.blockCounts[count] * rowByteCount(model)
            count += 1
        }
        let useful = zip(closing.useful(amongFirst: count), closingRows.useful(amongFirst: count))
        return zip(held, useful).filter { $1.0 || $1.1 }.map(\.0.id)
    }

    /// Bytes that a row of an open block takes in the store.
    private func rowByteCount(_ model: ModelEntry) -> Int {
        let pages = environment.runPages(valueByteCount: model.tail.byteCount)
        return pages > 0 ? pages * environment.pageByteCount : model.tail.byteCount
    }
}
