// SPDX-License-Identifier: Apache-2.0

internal import CAttentionKernels
internal import DCPCore
internal import Synchronization

/// Computes a piece of a shared read, one portion at a time, as `PieceRun` does for a piece of one entry.
///
/// `@unchecked Sendable`: one thread at a time uses it, and handing it on synchronises its memory.
package final class SharedRun: PortionRun, @unchecked Sendable {
    private let read: SharedRead
    private let keys: Range<Int>
    private let portionTokens: Int
    /// The first key token of the next portion.
    private var next: Int
    /// For each member, its current piece and the carried sums of that piece.
    private var pieces: [Int]
    private var carried: [CarriedStates?]
    /// The running states: for each tile the outputs of its rows, then their maxima and sums.
    private let memory: UnsafeMutablePointer<Float>
    private let tileCount: Int
    private let valueDim: Int

    /// - Parameters:
    ///   - piece: `0..<read.pieceCount`; each piece has one run.
    ///   - portionTokens: key tokens of a portion, in whole blocks; nil for the most that the bounds allow.
    package init(_ read: SharedRead, piece index: Int, portionTokens: Int? = nil) {
        self.read = read
        keys = read.pieces[index]
        next = keys.lowerBound
        self.portionTokens = portionTokens ?? read.portion(ofPiece: index).tokens
        pieces = read.members.map { $0.firstPiece[index] }
        carried = read.members.map { _ in nil }
        tileCount = read.members[0].work.tileCount
        valueDim = read.members[0].work.attention.valueDim
        // Each tile begins at a cache line.
        memory = UnsafeMutableRawPointer.allocate(
            byteCount: tileCount * Self.floats(rows: read.rows, valueDim) * 4, alignment: 64
        ).bindMemory(to: Float.self, capacity: tileCount * Self.floats(rows: read.rows, valueDim))
    }

    deinit { memory.deallocate() }

    private static func floats(rows: Int, _ valueDim: Int) -> Int { (rows * (valueDim + 2) + 15) / 16 * 16 }

    package func advance() -> Bool {
        if next == keys.lowerBound { for member in read.members.indices { begin(member) } }
        let end = min(next + portionTokens, keys.upperBound)
        while next < end {
            let stop = read.members.indices.reduce(end) { min($0, piece(of: $1).keys.upperBound) }
            attend(next..<stop)
            next = stop
            for member in read.members.indices where piece(of: member).keys.upperBound == stop {
                settle(member)
                guard stop < keys.upperBound else { continue }
                pieces[member] += 1
                begin(member)
            }
        }
        return next < keys.upperBound
    }

    private func piece(of member: Int) -> WorkSplit.Piece { read.members[member].work.split.pieces[pieces[member]] }

    private func attend(_ some: Range<Int>) {
        let first = read.members[0].work
        let pass = BlockPass(first.blocks, first.kernels, end: keys.upperBound)
        withUnsafeTemporaryAllocation(of: BlockPass.Tile.self, capacity: tileCount) { tiles in
            for index in 0..<tileCount {
                let rows = first.kernelRows(read.rows, queries: read.queries, ofTile: index, state(ofTile: index))
                tiles.initializeElement(
                    at: index,
                    to: pass.tile(
                        rows, kvHead: first.split.tiles[index].kvHead, of: tileCount, isFirst: true,
                        shared: read.shared, first.prefetch))
            }
            pass.run(some, tiles) { tokens in
                for (place, states) in carried.enumerated() {
                    guard let states, states.count(tokens) else { continue }
                    for index in 0..<tileCount {
                        var rows = rows(of: place, in: tiles[index].rows)
                        states.carry(&rows, tile: index)
                    }
                }
            } setVisible: { ranges, index, keys in
                for member in read.members {
                    member.work.setRanges(
                        ranges, from: member.firstRow, of: member.work.split.tiles[index], in: keys)
                }
                return true
            }
        }
    }

    /// The states of a tile's rows, starting with one of them.
    private func state(ofTile index: Int, from row: Int = 0) -> AttentionWork.State {
        let output = memory + index * Self.floats(rows: read.rows, valueDim)
        let maximum = output + read.rows * valueDim
        return AttentionWork.State(
            maximum: maximum + row, sum: maximum + read.rows + row, output: output + row * valueDim)
    }

    /// A member's rows of a tile: what is needed to carry their sums.
    private func rows(of member: Int, in tile: dcp_attention_rows) -> dcp_attention_rows {
        var rows = tile
        rows.rows = Int32(read.members[member].rows)
        rows.maximum += read.members[member].firstRow
        rows.sum += read.members[member].firstRow
        rows.output += read.members[member].firstRow * valueDim
        return rows
    }

    /// Begins a member's next piece.
    private func begin(_ member: Int) {
        let work = read.members[member].work
        // All members have these blocks, so one member's suffice.
        if member == 0 { work.readAhead?.begin(piece: pieces[member]) }
        if work.carryShift > 0 { carried[member] = work.carriedStates(of: piece(of: member).tiles) }
        for index in 0..<tileCount {
            state(ofTile: index, from: read.members[member].firstRow)
                .begin(rows: read.members[member].rows, valueDim: valueDim)
        }
    }

    /// Ends a member's piece.
    private func settle(_ member: Int) {
        let work = read.members[member].work, count = read.members[member].rows
        for index in 0..<tileCount {
            let from = state(ofTile: index, from: read.members[member].firstRow)
            if let states = carried[member] {
                var rows = work.kernelRows(count, queries: read.queries, ofTile: index, from)
                states.settle(&rows, tile: index)
            }
            let to = work.state(ofTile: index, piece: pieces[member])
            to.maximum.update(from: from.maximum, count: count)
            to.sum.update(from: from.sum, count: count)
            to.output.update(from: from.output, count: count * valueDim)
        }
        work.finishedPieces.add(1, ordering: .acquiringAndReleasing)
    }
}
