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
        let rows = held.map(tailByteCount)
        var (count, freed) = (0, 0)
        while count < held.count, freed < wanted {
            let model = held[count].model
            freed += rows[count] + closing.blockCounts[count] * model.blockPagesInAll * environment.pageByteCount
            count += 1
        }
        let useful = closing.useful(amongFirst: count)
        return (0..<count).filter { useful[$0] || rows[$0] > 0 }.map { held[$0].id }
    }

    /// Bytes that the rows of a sequence's open block take in the store. Nobody shares them.
    private func tailByteCount(of sequence: SequenceCache) -> Int {
        let rows = localLength(sequence.core.withLock(\.committed)) % blockTokens
        let byteCount = sequence.model.tail.byteCount
        let pages = environment.runPages(valueByteCount: byteCount)
        return rows * (pages > 0 ? pages * environment.pageByteCount : byteCount)
    }
}
