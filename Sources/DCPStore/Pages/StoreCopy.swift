// SPDX-License-Identifier: Apache-2.0

internal import CLMDB
internal import Synchronization

/// A state of a store's data file, held while the store continues, which a backup reads part by part.
///
/// No page that this state reaches is overwritten while its read transaction is active. Pages can therefore be read at
/// any time, with pread, so that a disk error is an error and not SIGBUS. Only the two meta pages change; that of this
/// state is kept from the beginning. Pages on its free list are omitted and become holes in the copy.
///
/// Rejected: `mdb_env_copyfd2`. It begins its own transaction, so that several stores could not be held at the same
/// moment and read later, and it needs a thread and a pipe for as long as the reader takes. `MDB_CP_COMPACT` would save
/// only the holes, and renumbers all pages for that.
///
/// @unchecked Sendable: the transaction is used by the initializer, and then only held; the file is read with pread.
public final class StoreCopy: @unchecked Sendable {
    /// Some pages, and the next page.
    public struct Part: Sendable {
        public var runs: [Range<Int>] = []
        public var bytes: [UInt8] = []
        public var next: Int
    }

    public static let partByteCountMax = 2 << 20
    private static let runsMax = 4096
    /// Commits that may happen between the transaction and reading its meta page; each takes a sync, or a transaction
    /// of the writer.
    private static let attempts = 100

    private let held: Held
    /// Free pages; computed at the first read.
    private let free = Mutex<PageSet?>(nil)

    public var pageByteCount: Int { held.file.pageByteCount }
    public var pages: Int { held.pages }

    /// Begins a read transaction, which is active as long as this object exists.
    /// - Throws: `.overloaded` with too many readers, or if commits are faster than reading two pages; `.closed`.
    public init(of environment: Environment) throws(StoreError) {
        for _ in 0..<Self.attempts {
            if let held = try Held(environment) {
                self.held = held
                return
            }
        }
        throw StoreError(
            .overloaded,
            "The store \(environment.directory) commits faster than its state can be copied (\(Self.attempts) "
                + "attempts failed); try again.")
    }

    /// Reads pages from `first` on: some megabytes, or the rest. One call at a time.
    public func read(from first: Int) throws(StoreError) -> Part {
        let free = try freePages()
        var part = Part(next: min(max(first, 0), pages))
        var buffer: [UInt8] = []
        let pagesMax = Self.partByteCountMax / pageByteCount
        while part.next < pages, part.bytes.count < Self.partByteCountMax, part.runs.count < Self.runsMax {
            if part.next < 2 {
                part.bytes += held.metaPages[(part.next * pageByteCount)...]
                part.runs.append(part.next..<2)
                part.next = 2
                continue
            }
            let start = part.next
            while part.next < pages, part.next - start < pagesMax, !free.contains(part.next) { part.next += 1 }
            if part.next > start {
                try held.file.read(start, count: part.next - start, into: &buffer)
                part.bytes += buffer
                part.runs.append(start..<part.next)
            }
            while part.next < pages, free.contains(part.next) { part.next += 1 }
        }
        return part
    }

    private func freePages() throws(StoreError) -> PageSet {
        try free.withLock { free throws(StoreError) in
            if let free { return free }
            var found = PageSet(count: pages)
            // A page that a transaction allocated and freed again was never written: the file may end before it.
            for page in min(held.file.pages, pages)..<pages { _ = found.insert(page) }
            try held.transaction.scanFreePages { page in if page < pages { _ = found.insert(page) } }
            free = found
            return found
        }
    }

    /// A transaction, the file of at least its pages, and its meta page.
    private final class Held {
        let transaction: ReadTransaction
        let file: PageFile
        let pages: Int
        /// The meta pages in the copy: of this state, and of a preceding one with the same pages, which is never read.
        let metaPages: [UInt8]

        /// nil if two commits have overwritten the meta page meanwhile.
        init?(_ environment: Environment) throws(StoreError) {
            transaction = try environment.beginRead()
            file = try PageFile(environment.dataPath)
            let number = transaction.number
            let slot = Int(number & 1)
            var page: [UInt8] = []
            try file.read(slot, into: &page)
            guard let meta = page.withUnsafeBytes({ MetaPage(Page($0, number: slot)) }), meta.transaction == number
            else { return nil }
            pages = Int(meta.lastPage) + 1
            metaPages = (0..<2).flatMap { slot in
                MetaPage.renumbered(page, slot: slot, transaction: slot == Int(number & 1) ? number : number - 1)
            }
        }
    }
}
