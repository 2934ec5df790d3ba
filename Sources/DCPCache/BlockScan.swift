// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPStore

/// The contents of the table `blocks`, from one scan over its entries: a block is one entry, or several consecutive
/// pieces.
struct BlockScan {
    /// A writer's blocks of one layer in key order, which is block order, and whether it has the right size.
    typealias LayerBlocks = [(index: Int, isGood: Bool)]

    /// By writer and layer.
    private(set) var blocks: [UInt64: [Int: LayerBlocks]] = [:]
    private(set) var pieced: [PiecedBlocks.Block] = []
    /// Blocks that no lineage covers, left by a deletion that did not come to its end.
    private(set) var orphans: [DoomedBlocks] = []
    /// Behind the last block of each writer, of any layer.
    private(set) var ends: [UInt64: Int] = [:]
    private let models: [ModelID: ModelEntry]
    private let lineages: LineageTable
    private let pageByteCount: Int
    /// The block whose pieces the scan is at, and their bytes, nil when one is missing.
    private var open: (key: BlockKey, pieces: Int, byteCount: Int?)?

    init(models: [ModelID: ModelEntry], lineages: LineageTable, pageByteCount: Int) {
        self.models = models
        self.lineages = lineages
        self.pageByteCount = pageByteCount
    }

    /// - Returns: whether a block begins with this entry.
    mutating func take(_ bytes: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer) -> Bool {
        guard let key = BlockKey(bytes) else { return false }
        ends[key.writer] = max(ends[key.writer] ?? 0, key.index + 1)
        guard let piece = BlockKey.piece(bytes) else {
            end()
            add(key, pages: BlockRecord.pages(byteCount: value.count, pageByteCount: pageByteCount)) {
                BlockAddress(value, byteCount: $0)
            }
            return true
        }
        let isFirst = open?.key != key
        if isFirst {
            end()
            open = (key, 0, 0)
        }
        let byteCount = open?.pieces == piece ? open?.byteCount : nil
        open = (key, piece + 1, byteCount.map { $0 + value.count })
        return isFirst
    }

    /// No more pieces of the block that the scan was at.
    mutating func end() {
        guard let (key, pieces, byteCount) = open else { return }
        open = nil
        add(key, pages: pieces) { $0 == byteCount ? .inPieces : nil }
        guard let last = blocks[key.writer]?[key.layer]?.last, last.index == key.index, last.isGood,
            let model = models[key.model]
        else { return }
        pieced.append(PiecedBlocks.Block(key: key, pages: model.blockPages[key.layer], pieces: pieces))
    }

    /// - Parameter address: the address of a block with the expected size.
    private mutating func add(_ key: BlockKey, pages: Int, address: (_ byteCount: Int) -> BlockAddress?) {
        guard let model = models[key.model], lineages.isCovered(writer: key.writer, block: key.index) else {
            return addOrphan(key, pages: pages)
        }
        // Not a layer of the model: it is never read, and `verify` reports it.
        guard key.layer < model.layers else { return }
        let address = address(model.blockByteCounts[key.layer])
        blocks[key.writer, default: [:]][key.layer, default: []].append((key.index, address != nil))
    }

    private mutating func addOrphan(_ key: BlockKey, pages: Int) {
        let layers = key.layer..<key.layer + 1
        if let last = orphans.last, last.model == key.model, last.writer == key.writer, last.layers == layers,
            last.blocks.upperBound == key.index
        {
            orphans[orphans.count - 1].blocks = last.blocks.lowerBound..<key.index + 1
        } else {
            orphans.append(
                DoomedBlocks(
                    model: key.model, writer: key.writer, layers: layers, blocks: key.index..<key.index + 1,
                    pages: pages))
        }
    }
}
