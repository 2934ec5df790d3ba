// SPDX-License-Identifier: Apache-2.0

import DCPAttention
import DCPCore
import DCPTestKit
import Glibc
import Testing

/// Blocks in a real file, none of them in memory, mapped without the kernel's own read-ahead.
private final class MappedBlocks {
    let blocks: KVBlocks
    private let map: UnsafeMutableRawPointer
    private let byteCount: Int

    init(_ panels: TestPanels, in directory: TemporaryDirectory) throws {
        let layout = panels.blocks.layout
        byteCount = panels.blocks.blocks.count * layout.payloadByteCount
        let file = open(directory.path + "/blocks", O_RDWR | O_CREAT, 0o600)
        try #require(file >= 0)
        defer { close(file) }
        for block in panels.blocks.blocks {
            try #require(write(file, block, layout.payloadByteCount) == layout.payloadByteCount)
        }
        try #require(fsync(file) == 0)
        try #require(posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED) == 0)
        map = try #require(mmap(nil, byteCount, PROT_READ, MAP_SHARED, file, 0))
        try #require(map != MAP_FAILED)
        try #require(madvise(map, byteCount, MADV_RANDOM) == 0)
        let start = UnsafeRawPointer(map)
        blocks = KVBlocks(
            layout: layout, blocks: panels.blocks.blocks.indices.map { start + $0 * layout.payloadByteCount },
            tokens: panels.blocks.tokens, isMapped: true)
    }

    deinit { munmap(map, byteCount) }
}

@Suite("blocks that are on disk")
struct ReadAheadTests {
    @Test("the first piece prefetches untouched pages; the result equals that of blocks in memory")
    func cold() async throws {
        var problem = AttentionCase(format: .bfloat16, kvHeads: 8, group: 1, keyDim: 128, valueDim: 128)
        problem.length = 64 * 40
        let inputs = problem.inputs()
        let panels = TestPanels(
            layout: problem.layout, keys: inputs.keys, values: inputs.values, tokens: problem.length)
        let directory = TemporaryDirectory()
        let mapped = try MappedBlocks(panels, in: directory)
        let last = try #require(mapped.blocks.blocks.last)
        // A file system in memory has nothing to read.
        let isOnDisk = !MappedPages.isResident(last)

        let work = AttentionWork(
            attention: try problem.attention(), partition: problem.partition, heads: 0..<problem.queryHeads,
            queries: problem.queryRows(inputs), tokens: 0..<1, visible: problem.visible, over: mapped.blocks)
        #expect(work.pieceCount == 10)
        work.run(piece: 0)
        if isOnDisk {
            let deadline = ContinuousClock.now + .seconds(20)
            while !MappedPages.isResident(last), ContinuousClock.now < deadline { await Task.yield() }
            #expect(MappedPages.isResident(last), "The last block was not prefetched.")
        }
        for piece in 1..<work.pieceCount { work.run(piece: piece) }
        var states = AttentionStates.empty(rows: problem.queryHeads, valueDim: problem.valueDim)
        withExtendedLifetime(mapped) { work.finish(into: &states) }
        #expect(states == (try problem.states(inputs)))
    }
}
