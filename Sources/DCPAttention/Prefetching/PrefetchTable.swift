// SPDX-License-Identifier: Apache-2.0

package import CAttentionKernels
package import DCPCore
internal import Synchronization

/// How kernels prefetch, by the kind of work.
public struct PrefetchTable: Hashable, Sendable {
    /// A kind of work that is measured separately: a cache format, and whether reading or arithmetic is the limit.
    package struct Work: Hashable, Sendable {
        package var format: CacheFormat
        /// Rows that share a KV head: `few` or `many`.
        package var rows: Int

        static let few = 4
        static let many = 8

        /// - Parameter rows: any number; with 5 or more arithmetic takes about as long as reading.
        package init(_ format: CacheFormat, rows: Int) {
            self.format = format
            self.rows = rows <= Self.few ? Self.few : Self.many
        }

        package static let all = [few, many].flatMap { rows in CacheFormat.allCases.map { Work($0, rows: rows) } }

        /// In the order in which they are measured: should time be up, those of rows are done, with few of them first.
        package static let tried = all.filter { !$0.format.hasScales } + all.filter { $0.format.hasScales }

        /// Its index in `all`, which each tile of a step looks up.
        fileprivate var index: Int {
            Int(format.rawValue) - 1 + (rows == Self.few ? 0 : CacheFormat.allCases.count)
        }
    }

    /// By `Work.index`.
    private var chosen: [Prefetch]

    /// The same for all work; by default into the first-level cache.
    public init(_ prefetch: Prefetch = .first) {
        chosen = [Prefetch](repeating: prefetch, count: Work.all.count)
    }

    package subscript(_ work: Work) -> Prefetch {
        get { chosen[work.index] }
        set { chosen[work.index] = newValue }
    }

    /// Each kind of work with its prefetching: `bf16, 4 rows: second:32`.
    public var lines: [String] { Work.tried.map { "\($0.format.name), \($0.rows) rows: \(self[$0])" } }

    private static let shared = Mutex(PrefetchTable())

    /// The table for work that this process begins from now on. Any thread may use it.
    public static var current: PrefetchTable {
        get { shared.withLock { $0 } }
        set { shared.withLock { $0 = newValue } }
    }

    /// How the rows of a tile prefetch: the level as kernels number it, and the distance in bytes; nil for not at all.
    /// - Parameter blockByteCount: the bytes that are read of each block; the distance is limited to the next block.
    package func ahead(
        _ rows: dcp_attention_rows, _ kernels: AttentionKernels, _ layout: PanelLayout, blockByteCount: Int
    ) -> (level: Int32, byteCount: Int)? {
        let prefetch = self[Work(layout.format, rows: Int(rows.rows))]
        let level: Int32
        switch prefetch.level {
        case .none: return nil
        case .first: level = 1
        case .second: level = 2
        }
        if let byteCount = prefetch.byteCount { return (level, min(byteCount, blockByteCount)) }
        let byteCount = withUnsafePointer(to: rows) {
            dcp_ahead_bytes(kernels.table, Int32(layout.format.rawValue), $0, Int64(layout.headByteCount))
        }
        return (level, Int(byteCount))
    }
}
