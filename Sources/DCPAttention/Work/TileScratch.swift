internal import DCPCore

/// The Float32 operands of one tile, for the time of one piece. At most about 0.8 MiB, at 256 dimensions.
final class TileScratch {
    /// `[rows][tokens]`: scores, then weights.
    let scores: UnsafeMutablePointer<Float>
    /// `[Dk][tokens]`
    let keys: UnsafeMutablePointer<Float>
    /// `[tokens][Dv]`
    let values: UnsafeMutablePointer<Float>
    /// `[rows]`
    let visible: UnsafeMutablePointer<Int32>

    private let memory: UnsafeMutableRawPointer

    /// - Parameter tokens: a multiple of 16.
    init(rows: Int, tokens: Int, model: ModelShape) {
        let counts = [rows * tokens, model.keyDim * tokens, tokens * model.valueDim]
        let starts = counts.reduce(into: [0]) { $0.append($0[$0.count - 1] + ($1 + 15) / 16 * 16) }
        let floats = starts[3]
        memory = .allocate(byteCount: floats * 4 + rows * 4, alignment: 64)
        let base = memory.bindMemory(to: Float.self, capacity: floats)
        scores = base + starts[0]
        keys = base + starts[1]
        values = base + starts[2]
        visible = (memory + floats * 4).bindMemory(to: Int32.self, capacity: rows)
    }

    deinit { memory.deallocate() }
}
