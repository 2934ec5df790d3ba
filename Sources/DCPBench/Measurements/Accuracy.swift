// SPDX-License-Identifier: Apache-2.0

internal import DCPAttention
internal import DCPCore
internal import DCPOracle

/// How far results are from dense attention in Float64 over the same numbers.
public struct Accuracy: Encodable, Hashable, Sendable {
    /// The largest difference of an output's element.
    public var outputMax: Double
    /// The same, divided by the largest output: outputs of long contexts are averages, and small.
    public var outputRelativeMax: Double
    /// The largest difference of a log-sum-exp.
    public var lseMax: Double
    /// How many rows, each a query head of a token, were compared.
    public var rows: Int

    package init(outputMax: Double, outputRelativeMax: Double, lseMax: Double, rows: Int) {
        self.outputMax = outputMax
        self.outputRelativeMax = outputRelativeMax
        self.lseMax = lseMax
        self.rows = rows
    }
}

/// Dense attention in Float64 for some rows, over keys and values as they stand in the panels.
struct AccuracyCheck {
    struct Row {
        var head: Int
        var token: Int
        /// `[Dv]`
        var output: [Double]
        var lse: Double
    }

    let rows: [Row]

    init(_ rows: [Row]) { self.rows = rows }

    /// Rows over what they see of the blocks.
    ///
    /// Computes the first and the last query head of the first and the last KV head, for the first and the last token of the
    /// first entry: a second or two at 128k tokens.
    init(_ work: Work) throws(ServiceError) {
        let (attention, queries, entry) = (work.attention, work.queries, work.entries[0])
        let shared = attention.queryHeads / attention.kvHeads
        var rows: [Row] = []
        for kvHead in Set([0, attention.kvHeads - 1]).sorted() {
            let (keys, values) = Self.read(entry.blocks, kvHead: kvHead)
            for head in Set([kvHead * shared, (kvHead + 1) * shared - 1]).sorted() {
                for token in Set([0, work.count - 1]).sorted() {
                    let start = (head * queries.tokens + token) * attention.keyDim
                    rows.append(
                        try Self.row(
                            head, token, attention, query: Array(queries.values[start..<start + attention.keyDim]),
                            keys: keys, values: values, seen: entry.visible[token]))
                }
            }
        }
        self.rows = rows
    }

    /// One row from keys `[tokens][Dk]` and values `[tokens][Dv]`, where they are no keys, of its KV head.
    static func row(
        _ head: Int, _ token: Int, _ attention: LayerAttention, query: [Float], keys: [Float], values: [Float],
        seen: Range<Int>
    ) throws(ServiceError) -> Row {
        let single = try LayerAttention(
            queryHeads: 1, kvHeads: 1, keyDim: attention.keyDim, values: attention.values, scale: attention.scale,
            softcap: attention.softcap)
        func some(_ rows: [Float], _ dim: Int) -> [Float] {
            seen.count * dim == rows.count ? rows : Array(rows[seen.lowerBound * dim..<seen.upperBound * dim])
        }
        let result = ReferenceAttention(single).attend(
            queries: query, keys: some(keys, attention.keyDim), values: some(values, attention.ownValueDim),
            position: nil)
        return Row(head: head, token: token, output: result.outputs, lse: result.lse[0])
    }

    /// One KV head read back out of the panels, as Float32: keys `[tokens][Dk]`, values `[tokens][Dv]` where there are any.
    static func read(_ blocks: KVBlocks, kvHead: Int) -> (keys: [Float], values: [Float]) {
        let layout = blocks.layout
        // A head's panels stand together, as the payload of a layout with that head alone.
        let single = PanelLayout(
            format: layout.format, kvHeads: 1, keyDim: layout.keyDim, values: layout.values,
            blockTokens: layout.blockTokens)
        var keys = [Float](repeating: 0, count: blocks.tokens * layout.keyDim)
        var values = [Float](repeating: 0, count: blocks.tokens * layout.ownValueDim)
        let row = UnsafeMutableRawPointer.allocate(byteCount: single.rowByteCount, alignment: 64)
        defer { row.deallocate() }
        for token in 0..<blocks.tokens {
            let (block, offset) = token.quotientAndRemainder(dividingBy: layout.blockTokens)
            single.read(token: offset, of: blocks.blocks[block] + layout.keyPanelOffset(ofHead: kvHead), into: row)
            for dim in 0..<layout.keyDim { keys[token * layout.keyDim + dim] = layout.format.rowType.float(row, dim) }
            for dim in 0..<layout.ownValueDim {
                values[token * layout.ownValueDim + dim] = layout.format.rowType.float(row, layout.keyDim + dim)
            }
        }
        return (keys, values)
    }

    /// - Parameters:
    ///   - outputs: the element of a row.
    ///   - lse: a row's.
    func compare(
        output: (_ head: Int, _ token: Int, _ dim: Int) -> Float, lse: (_ head: Int, _ token: Int) -> Float
    ) -> Accuracy {
        var accuracy = Accuracy(outputMax: 0, outputRelativeMax: 0, lseMax: 0, rows: rows.count)
        var largest = 0.0
        for row in rows {
            for (dim, wanted) in row.output.enumerated() {
                let found = Double(output(row.head, row.token, dim))
                accuracy.outputMax = max(accuracy.outputMax, Self.difference(found, wanted))
                largest = max(largest, abs(wanted))
            }
            accuracy.lseMax = max(accuracy.lseMax, Self.difference(Double(lse(row.head, row.token)), row.lse))
        }
        // All outputs are zeros where no row sees a token.
        accuracy.outputRelativeMax = accuracy.outputMax == 0 ? 0 : accuracy.outputMax / largest
        return accuracy
    }

    /// A row that sees no token has an LSE of -infinity, as it must: equal numbers differ by 0.
    private static func difference(_ found: Double, _ wanted: Double) -> Double {
        guard found != wanted else { return 0 }
        let difference = abs(found - wanted)
        return difference.isNaN ? .infinity : difference
    }

    /// - Parameter states: rows `[Hq][tokens]`, the step's.
    func compare(_ states: AttentionStates, tokens: Int) -> Accuracy {
        compare(
            output: { head, token, dim in states.outputs[(head * tokens + token) * states.valueDim + dim] },
            lse: { head, token in Float(states.lse[head * tokens + token]) })
    }
}

extension DataType {
    /// A number of a row in this dtype. Exact.
    fileprivate func float(_ row: UnsafeRawPointer, _ index: Int) -> Float {
        switch self {
        case .float32: row.load(fromByteOffset: index * 4, as: Float.self)
        case .float16: Float(row.load(fromByteOffset: index * 2, as: Float16.self))
        case .bfloat16: Float(bitPattern: UInt32(row.load(fromByteOffset: index * 2, as: UInt16.self)) << 16)
        }
    }
}
