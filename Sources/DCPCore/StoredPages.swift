// SPDX-License-Identifier: Apache-2.0

/// Some pages of one state of a store, as a backup reads them.
public struct StoredPages: Hashable, Sendable {
    public var pageByteCount: Int
    /// Of the whole state.
    public var pages: Int
    /// Pages beside each other, rising.
    public var runs: [Range<Int>]
    /// Of the runs, one after the other.
    public var bytes: [UInt8]
    /// The next page to read; `pages` at the end. Pages before it that are in no run are unused.
    public var next: Int

    public init(pageByteCount: Int, pages: Int, runs: [Range<Int>], bytes: [UInt8], next: Int) {
        self.pageByteCount = pageByteCount
        self.pages = pages
        self.runs = runs
        self.bytes = bytes
        self.next = next
    }
}

/// Reads a state of a store from some page on. Any thread may call it; it blocks on the disk. Releasing it drops the
/// state.
public typealias StoredPagesReader = @Sendable (_ page: Int) -> Result<StoredPages, ServiceError>
