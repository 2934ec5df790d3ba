// SPDX-License-Identifier: Apache-2.0

internal import DCPCore

/// The Float32 operands of a tile while a piece is computed: at most about 1.3 MiB, with 576 dimensions.
final class TileScratch {
    /// `[rows][tokens]`: scores, then weights.
    let scores: UnsafeMutablePointer<Float>
    /// `[Dk][tokens]`
    let keys: UnsafeMutablePointer<Float>
    /// `[tokens][Dv]`; none if keys hold the values.
    let values: UnsafeMutablePointer<Float>
    let ranges: RowRanges

    private let memory: UnsafeMutableRawPointer

    /// - Parameter tokens: a multiple of 16.
    init(rows: Int, tokens: Int, layout: PanelLayout) {
        let counts = [rows * tokens, layout.keyDim * tokens, tokens * layout.ownValueDim]
        let starts = counts.reduce(into: [0]) { $0.append($0[$0.count - 1] + ($1 + 15) / 16 * 16) }
        let floats = starts[3]
        memory = .allocate(byteCount: floats * 4 + rows * 2 * 4, alignment: 64)
        let base = memory.bindMemory(to: Float.self, capacity: floats)
        scores = base + starts[0]
        keys = base + starts[1]
        values = base + starts[2]
        ranges = RowRanges((memory + floats * 4).bindMemory(to: Int32.self, capacity: 2 * rows), rows: rows)
    }

    deinit { memory.deallocate() }
}
