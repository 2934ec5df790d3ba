/// Whether a store takes new data. Deleting and reading go on in all but `failed`, in which only reading does.
///
/// `writable ⇄ full`, `writable or full ⇄ refused`, and from any of them `failed`, which only a restart ends.
public enum StoreCondition: Hashable, Sendable {
    case writable
    /// More is in use than the high watermark, or a commit found no room, and not yet less than the low watermark.
    case full
    /// The disk refused a write with this `errno`. A probe every second, and every commit that succeeds, ends it.
    case refused(Int32)
    /// A sync failed, or LMDB can write no more: nothing that was acknowledged since the last good sync can be trusted,
    /// so nothing is written any more. The store is marked, and verified when it is opened again.
    case failed(StoreError)

    public static func == (a: StoreCondition, b: StoreCondition) -> Bool {
        switch (a, b) {
        case (.writable, .writable), (.full, .full), (.failed, .failed): true
        case (.refused(let a), .refused(let b)): a == b
        case (.writable, _), (.full, _), (.refused, _), (.failed, _): false
        }
    }

    public func hash(into hasher: inout Hasher) {
        switch self {
        case .writable: hasher.combine(0)
        case .full: hasher.combine(1)
        case .refused(let code): hasher.combine(code)
        case .failed: hasher.combine(3)
        }
    }
}

/// How a store is doing, as of its last commit. Written by the writer's thread, read by any.
public struct StoreHealth: Sendable {
    public var condition = StoreCondition.writable
    /// Bytes of pages in use; below the low watermark an upper bound, since the free list is then not read.
    public var usedByteCount = 0
    /// Bytes that new data may take: the largest size of the data file without the reserve for deletions.
    public var capacityByteCount = 0
    /// What the refused transaction needs; 0 unless `refused`.
    public var wantedByteCount = 0
}
