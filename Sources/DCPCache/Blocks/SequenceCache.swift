// SPDX-License-Identifier: Apache-2.0

internal import DCPAttention
internal import DCPCore
internal import Synchronization

/// A model as the cache holds it.
final class ModelEntry: Sendable {
    let id: ModelID
    let name: String
    let description: ModelDescription
    /// Of each layer.
    let panels: [PanelLayout]
    let tail: TailLayout
    /// Bytes of a block's value in each layer, and pages that it takes.
    let blockByteCounts: [Int]
    let blockPages: [Int]
    /// Pages that one block index takes in all layers.
    let blockPagesInAll: Int

    init(id: ModelID, name: String, description: ModelDescription, cluster: ClusterShape, pageByteCount: Int) {
        self.id = id
        self.name = name
        self.description = description
        panels = (0..<description.layers).map { PanelLayout(description[$0], description.kvFormat, in: cluster) }
        tail = TailLayout(panels)
        blockByteCounts = panels.map { BlockRecord.byteCount($0, pageByteCount: pageByteCount) }
        blockPages = blockByteCounts.map { BlockRecord.pages(byteCount: $0, pageByteCount: pageByteCount) }
        blockPagesInAll = blockPages.reduce(0, +)
    }

    var layers: Int { panels.count }
    /// Bytes of one block in all layers.
    var blockByteCount: Int { panels.reduce(0) { $0 + $1.payloadByteCount } }
    /// Bytes of one token in all layers.
    var rowByteCount: Int { tail.rowByteCount }

    /// Layers beside each other whose blocks take as many pages.
    var pageRuns: [(layers: Range<Int>, pages: Int)] {
        var runs: [(layers: Range<Int>, pages: Int)] = []
        for (layer, pages) in blockPages.enumerated() {
            if let last = runs.last, last.pages == pages {
                runs[runs.count - 1].layers = last.layers.lowerBound..<layer + 1
            } else {
                runs.append((layer..<layer + 1, pages))
            }
        }
        return runs
    }
}

/// One layer of a sequence on this rank: block i is `mapped[i]`, or `memory[i - mapped.count]`.
struct LayerState: Sendable {
    /// Tokens appended, committed or not.
    var length: Position
    /// The sealed blocks: those that are committed, and behind them those that were spilled.
    var mapped: [BlockAddress]
    /// Blocks below this index may be in the store under the keys of the lineage: those of `mapped`, and some that this layer
    /// has dropped and others have not.
    var stored = 0
    /// The sealed blocks in pieces that are kept in RAM, by index.
    var assembled: [Int: AssembledBlock] = [:]
    /// The open block and, before it, full blocks that are neither committed nor spilled.
    var memory: [MemoryBlock] = []
    /// Sealed blocks that are known to be intact, by index. What a window sees may be checked without what is before it.
    var verified = 0..<0
    /// Raised when sealed blocks are dropped, so that a check that ran meanwhile does not vouch for others.
    var generation = 0
    /// A truncation is on its way to the store.
    var isFrozen = false
    var isClosed = false
}

/// One sequence of this rank.
///
/// Locks: `core` before a layer's, one layer's at a time, and neither while the store is written. Appending to a layer
/// and reading it exclude each other, layers and sequences do not.
final class SequenceCache: Sendable {
    let id: SequenceID
    let model: ModelEntry
    let scope: String
    let name: String
    let origin: StoredSequence.Origin?
    let core: Mutex<Core>

    struct Core: Sendable {
        var committed: Position
        /// Tokens below cannot be rewound: they are committed, or in a commit in progress.
        var floor: Position
        /// Blocks of tokens below may be those of a fork, too, and of no record: layers drop them together.
        var shared = Position(0)
        /// As in the record; see `StoredSequence.lastChange`.
        var lastChange: UInt64
        /// The latest that this rank has been told of.
        var claim: Claim
        var retention: Retention
        /// Its data in RAM; nil for an idle sequence.
        var residence: Residence?
        /// As in the order of uses.
        var lastUse: UInt64 = 0
        /// Of the last residence: the blocks that are known to be intact, and the highest generation.
        var verified = VerifiedBlocks()
        var generation = 0
        var isClosed = false
        var damage: Damage?

        var layers: [LayerCache] { residence?.layers ?? [] }
    }

    /// None when it is not resident. With the mutex of the core free.
    var layers: [LayerCache] { core.withLock(\.layers) }

    /// Nothing from this local token on can be served.
    struct Damage: Sendable {
        var start: LocalIndex
        var message: String
    }

    init(
        id: SequenceID, model: ModelEntry, scope: String, name: String, origin: StoredSequence.Origin?,
        committed: Position, lastChange: UInt64, claim: Claim = .none, retention: Retention = Retention(),
        residence: Residence?
    ) {
        self.id = id
        self.model = model
        self.scope = scope
        self.name = name
        self.origin = origin
        core = Mutex(
            Core(
                committed: committed, floor: committed, lastChange: lastChange, claim: claim,
                retention: retention, residence: residence))
    }

    /// Records damage; the earliest counts.
    func markDamaged(from start: LocalIndex, _ message: String) {
        core.withLock { $0.markDamaged(from: start, message) }
    }
}

extension SequenceCache.Core {
    mutating func markDamaged(from start: LocalIndex, _ message: String) {
        if let damage, damage.start <= start { return }
        damage = SequenceCache.Damage(start: start, message: message)
    }

    mutating func markMissing(block: Int, layer: Int, of id: SequenceID, in shard: Shard, on rank: RankIndex) {
        markDamaged(
            from: shard.start(ofBlock: block),
            "Block \(block) of layer \(layer) of \(id) is missing in the store of \(rank), or has a wrong size")
    }
}

final class LayerCache: Sendable {
    let state: Mutex<LayerState>

    init(_ state: LayerState) { self.state = Mutex(state) }
}

extension LayerState {
    /// Blocks that were just written from what the checksum was made of: as good as checked.
    mutating func noteWritten(_ blocks: Range<Int>) {
        if verified.isEmpty {
            verified = blocks
        } else if verified.upperBound == blocks.lowerBound {
            verified = verified.lowerBound..<blocks.upperBound
        }
    }

    /// Sealed blocks for a fork; all of them in the same memory, until one of both has another.
    func mapped(upTo count: Int) -> [BlockAddress] { count >= mapped.count ? mapped : Array(mapped[..<count]) }

    /// Drops the sealed blocks from `count` on.
    mutating func dropSealed(from count: Int) {
        mapped.removeLast(max(mapped.count - count, 0))
        if !assembled.isEmpty { assembled = assembled.filter { $0.key < count } }
    }

    /// Restores the state before a job that is undone.
    mutating func restore(_ saved: LayerState) {
        let generation = generation + 1
        self = saved
        self.generation = generation
    }

    /// Drops the tokens from `end` on, all of them in RAM. Blocks that a reader holds are replaced, not
    /// changed.
    mutating func dropMemory(from end: LocalIndex, of shard: Shard, _ panels: PanelLayout, pool: BlockPool) {
        let (block, tokens) = shard.block(of: end)
        let blocks = block + (tokens > 0 ? 1 : 0) - mapped.count
        precondition(blocks >= 0, "sealed blocks are dropped first")
        memory.removeLast(max(memory.count - blocks, 0))
        // A fork that borrows a block copies only its own tokens.
        guard tokens > 0, blocks > 0, let last = memory.last, !last.isBorrowed else { return }
        if last.leases.load(ordering: .acquiring) == 0 {
            last.clear(from: tokens, panels)
        } else {
            memory[memory.count - 1] = MemoryBlock(copying: last.address, tokens: tokens, panels, pool: pool)
        }
    }
}
