/// Some pages of one state of a store, as a backup reads them.
public struct StoredPages: Hashable, Sendable {
    public var pageByteCount: Int
    /// Of the whole state.
    public var pages: Int
    /// Pages beside each other, rising.
    public var runs: [Range<Int>]
    /// Of the runs, one after the other.
    public var bytes: [UInt8]
    /// Where to go on; `pages` at the end. What is before it and in no run holds nothing.
    public var next: Int

    public init(pageByteCount: Int, pages: Int, runs: [Range<Int>], bytes: [UInt8], next: Int) {
        self.pageByteCount = pageByteCount
        self.pages = pages
        self.runs = runs
        self.bytes = bytes
        self.next = next
    }
}

/// Reads a state of a store from some page on. From any thread; it blocks on the disk. The state is let go with it.
public typealias StoredPagesReader = @Sendable (_ page: Int) -> Result<StoredPages, ServiceError>
