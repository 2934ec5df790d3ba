// SPDX-License-Identifier: Apache-2.0

internal import Glibc

/// A data file of LMDB, read page by page with pread instead of a map: a missing page is then an error and not SIGBUS.
struct PageFile: ~Copyable {
    let path: String
    let pageByteCount: Int
    /// Pages that the file has room for.
    let pages: Int
    private let descriptor: Int32

    /// - Throws: `.refused` for a file that cannot be opened, or does not begin with a page of LMDB.
    init(_ path: String) throws(StoreError) {
        let (descriptor, meta) = try Self.open(path)
        var status = stat()
        fstat(descriptor, &status)
        self.path = path
        self.descriptor = descriptor
        pageByteCount = meta.pageByteCount
        pages = Int(status.st_size) / meta.pageByteCount
    }

    private static func open(_ path: String) throws(StoreError) -> (Int32, MetaPage) {
        let descriptor = Glibc.open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { throw StoreError.lmdb(errno, "open the data file \(path)") }
        // Tree pages are few and scattered: read-ahead would read megabytes of blocks after each.
        posix_fadvise(descriptor, 0, 0, POSIX_FADV_RANDOM)
        var head = [UInt8](repeating: 0, count: MetaPage.byteCount)
        let count = pread(descriptor, &head, head.count, 0)
        guard count == head.count, let meta = head.withUnsafeBytes({ MetaPage(Page($0, number: 0)) }) else {
            Glibc.close(descriptor)
            throw StoreError(
                .damaged,
                "The data file \(path) is damaged or is not an LMDB file; restore it, or move the store's directory "
                    + "away and restart the rank, which then starts empty.")
        }
        return (descriptor, meta)
    }

    deinit { Glibc.close(descriptor) }

    /// Reads a run of pages; `bytes` is resized to their length.
    /// - Throws: `.damaged` when the file does not have them.
    borrowing func read(_ number: Int, count: Int = 1, into bytes: inout [UInt8]) throws(StoreError) {
        guard number >= 0, count >= 1, number <= pages - count else {
            throw damaged("a page points at the pages \(number)..<\(number + count), the file has \(pages)")
        }
        let byteCount = count * pageByteCount
        if bytes.count != byteCount { bytes = [UInt8](repeating: 0, count: byteCount) }
        var done = 0
        while done < byteCount {
            let read = bytes.withUnsafeMutableBytes {
                pread(descriptor, $0.baseAddress! + done, byteCount - done, off_t(number * pageByteCount + done))
            }
            guard read > 0 else {
                if read < 0, errno == EINTR { continue }
                throw StoreError.lmdb(read < 0 ? errno : EIO, "read page \(number) of \(path)")
            }
            done += read
        }
    }

    /// Lets the kernel start reading pages in file order that will be read one by one: a disk then serves many requests
    /// at a time. Numbers beyond the file are ignored.
    borrowing func prefetch(_ numbers: [Int]) {
        let sorted = numbers.filter { (0..<pages).contains($0) }.sorted()
        var start = 0
        while start < sorted.count {
            var end = start + 1
            while end < sorted.count, sorted[end] == sorted[end - 1] + 1 { end += 1 }
            posix_fadvise(
                descriptor, off_t(sorted[start] * pageByteCount), off_t((end - start) * pageByteCount),
                POSIX_FADV_WILLNEED)
            start = end
        }
    }

    borrowing func damaged(_ what: String) -> StoreError {
        StoreError(
            .damaged,
            "The pages of \(path) are damaged: \(what). Restore it, or move the store's directory away and restart "
                + "the rank, which then starts empty.")
    }
}

/// One page in memory, by the layout of `MDB_page`: number (8 bytes), padding (2), flags (2), then the bounds of the free
/// space, lower (2) and upper (2), or the pages of an overflow run (4).
struct Page {
    static let headerByteCount = 16

    let bytes: UnsafeRawBufferPointer
    /// Where it was read from.
    let number: Int

    init(_ bytes: UnsafeRawBufferPointer, number: Int) {
        self.bytes = bytes
        self.number = number
    }

    func integer<Value: FixedWidthInteger>(_ offset: Int, _ type: Value.Type = Value.self) -> Value {
        Value(littleEndian: bytes.loadUnaligned(fromByteOffset: offset, as: Value.self))
    }

    /// The number stated in the page.
    var ownNumber: UInt64 { integer(0) }
    var flags: UInt16 { integer(10) }
    var lower: Int { Int(integer(12, UInt16.self)) }
    var upper: Int { Int(integer(14, UInt16.self)) }
    var overflowPages: Int { Int(integer(12, UInt32.self)) }

    static let branch: UInt16 = 1
    static let leaf: UInt16 = 2
    static let overflow: UInt16 = 4
    static let meta: UInt16 = 8
}

/// A tree by the layout of `MDB_db`, 48 bytes.
struct PageTree {
    static let byteCount = 48

    var flags: UInt16
    var depth: Int
    var branchPages: UInt64
    var leafPages: UInt64
    var overflowPages: UInt64
    var entries: UInt64
    var root: UInt64

    static let noRoot = UInt64.max

    init(_ page: Page, at offset: Int) {
        flags = page.integer(offset + 4)
        depth = Int(page.integer(offset + 6, UInt16.self))
        branchPages = page.integer(offset + 8)
        leafPages = page.integer(offset + 16)
        overflowPages = page.integer(offset + 24)
        entries = page.integer(offset + 32)
        root = page.integer(offset + 40)
    }
}

/// A page of `MDB_meta`: magic (4 bytes), version (4), address (8), map size (8), the trees of free pages and of tables, the
/// last page (8) and the transaction (8).
struct MetaPage {
    static let byteCount = Page.headerByteCount + 136

    let pageByteCount: Int
    let free: PageTree
    let main: PageTree
    let lastPage: UInt64
    let transaction: UInt64

    /// The bytes of a meta page in another place, of another transaction with the same trees.
    static func renumbered(_ bytes: [UInt8], slot: Int, transaction: UInt64) -> [UInt8] {
        var bytes = bytes
        bytes.withUnsafeMutableBytes {
            $0.storeBytes(of: UInt64(slot).littleEndian, as: UInt64.self)
            $0.storeBytes(
                of: transaction.littleEndian, toByteOffset: Page.headerByteCount + transactionOffset, as: UInt64.self)
        }
        return bytes
    }

    private static let transactionOffset = 128

    /// nil for other pages.
    init?(_ page: Page) {
        let start = Page.headerByteCount
        guard page.flags & Page.meta != 0, page.integer(start, UInt32.self) == 0xBEEF_C0DE,
            page.integer(start + 4, UInt32.self) == 1
        else { return nil }
        // The free tree's first field doubles as the page size.
        pageByteCount = Int(page.integer(start + 24, UInt32.self))
        guard pageByteCount.nonzeroBitCount == 1, (512...65_536).contains(pageByteCount) else { return nil }
        free = PageTree(page, at: start + 24)
        main = PageTree(page, at: start + 24 + PageTree.byteCount)
        lastPage = page.integer(start + 120)
        transaction = page.integer(start + Self.transactionOffset)
    }
}
