internal import DCPCore

/// The Float32 operands of one tile, for the time of one piece. At most about 1.5 MiB, at 256 dimensions.
final class TileScratch {
    /// `[rows][Dk]`, scaled.
    let queries: UnsafeMutablePointer<Float>
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
        let counts = [rows * model.keyDim, rows * tokens, model.keyDim * tokens, tokens * model.valueDim]
        let starts = counts.reduce(into: [0]) { $0.append($0[$0.count - 1] + ($1 + 15) / 16 * 16) }
        let floats = starts[4]
        memory = .allocate(byteCount: floats * 4 + rows * 4, alignment: 64)
        let base = memory.bindMemory(to: Float.self, capacity: floats)
        queries = base + starts[0]
        scores = base + starts[1]
        keys = base + starts[2]
        values = base + starts[3]
        visible = (memory + floats * 4).bindMemory(to: Int32.self, capacity: rows)
    }

    deinit { memory.deallocate() }
}
