internal import CLMDB
internal import Synchronization

/// One state of a store's data file, held while the store goes on: what a backup reads, part by part.
///
/// No page that this state reaches is written again while its read transaction lives. So pages can be read at any time, with
/// pread: an error of the disk is then an error, and not SIGBUS. Only the two meta pages change; that of this state is kept
/// from the beginning. What is on its free list is left out: in the copy there are holes.
///
/// Rejected: `mdb_env_copyfd2`. It takes a transaction of its own, so that several stores could not be held at one moment
/// first and read then, and a thread and a pipe for as long as the reader takes. What `MDB_CP_COMPACT` saves are the holes,
/// and it renumbers all pages for that.
///
/// @unchecked Sendable: the transaction is used by the initializer, and then only held; the file is read with pread.
public final class StoreCopy: @unchecked Sendable {
    /// Some pages, and where to go on.
    public struct Part: Sendable {
        public var runs: [Range<Int>] = []
        public var bytes: [UInt8] = []
        public var next: Int
    }

    public static let partByteCountMax = 2 << 20
    private static let runsMax = 4096
    /// Commits that may come between the transaction and the look at its meta page; each costs a sync, or a transaction of
    /// the writer.
    private static let attempts = 100

    private let held: Held
    /// Pages that hold nothing; made at the first read.
    private let free = Mutex<PageSet?>(nil)

    public var pageByteCount: Int { held.file.pageByteCount }
    public var pages: Int { held.pages }

    /// Begins a read transaction, which lives as long as this.
    /// - Throws: `.overloaded` with too many readers, or with commits that come faster than two pages are read; `.closed`.
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

    /// Reads pages from `first` on: some megabytes, or what there is. One call at a time.
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
            // A page that its own transaction gave back was never written: the file may end before it.
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
        /// As they are in the copy: of this state, and of one before it with the same pages, which nobody reads.
        let metaPages: [UInt8]

        /// nil when two commits have overwritten the meta page meanwhile.
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
