// SPDX-License-Identifier: Apache-2.0

/// Whether a store accepts new data.
///
/// Deleting and reading are possible in all states except `failed`, in which only reading is. Transitions are `writable
/// ⇄ full`, `writable or full ⇄ refused`, and from any of them `failed`, which only a restart ends.
public enum StoreCondition: Hashable, Sendable {
    case writable
    /// Usage is above the high watermark, or a commit found no room, and usage has not fallen below the low watermark
    /// since.
    case full
    /// The disk refused a write with this `errno`. A successful probe, tried every second, or a successful commit ends
    /// it.
    case refused(Int32)
    /// A sync failed, or LMDB cannot write any more: data acknowledged since the last successful sync cannot be
    /// trusted, so nothing more is written. The store is marked, and verified when it is opened again.
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

/// The health of a store, as of its last commit. Written by the writer's thread, read by any.
public struct StoreHealth: Sendable {
    public var condition = StoreCondition.writable
    /// Bytes of pages in use; below the low watermark an upper bound, because the free list is not read then.
    public var usedByteCount = 0
    /// Bytes that new data may take: the largest size of the data file without the reserve for deletions.
    public var capacityByteCount = 0
    /// Bytes that the refused transaction needs; 0 unless `refused`.
    public var wantedByteCount = 0
}
