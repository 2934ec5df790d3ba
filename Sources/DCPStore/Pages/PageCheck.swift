// SPDX-License-Identifier: Apache-2.0

/// Checks LMDB's pages before LMDB maps them.
///
/// LMDB trusts its pages: a flipped bit in one crashes the process, by an assertion or a wild address. This check
/// requires every page that a table reaches to be of the right kind, to contain its nodes entirely and in order, and to
/// point at existing pages that nothing else uses; LMDB then never leaves the file. The contents of values are not
/// checked, because they have checksums. For little-endian 64-bit machines and LMDB 0.9.
struct PageCheck: ~Copyable {
    /// More levels than 2^48 pages could fill.
    static let depthMax = 24

    /// The scope of the check.
    enum Extent {
        /// Branch and leaf pages: fast enough for a start, whatever the size of the values.
        case trees
        /// Also the first page of each large value, which has its number of pages.
        case values
    }

    private let file: PageFile
    private let meta: MetaPage
    private let extent: Extent
    private let checkedPage: () -> Void
    private var used: PageSet
    /// A page in memory for each level.
    private var levels: [[UInt8]]
    /// Tables found in the main tree, to be walked after it.
    private var tables: [(name: String, tree: PageTree)] = []
    private var counts = Counts()
    private var lastKey: [UInt8] = []
    /// The lower bound for the next key, from the branches.
    private var floor: [UInt8] = []
    /// Pages on the free list.
    private var freePages: [Int] = []

    private struct Counts {
        var branchPages: UInt64 = 0
        var leafPages: UInt64 = 0
        var overflowPages: UInt64 = 0
        var entries: UInt64 = 0
    }

    private enum Kind {
        case free
        case main
        case table
    }

    /// Checks the file's newest transaction.
    /// - Throws: `.damaged` with the page and the problem.
    /// - Parameter checkedPage: called for each page.
    static func run(_ path: String, _ extent: Extent, _ checkedPage: @escaping () -> Void) throws(StoreError) {
        var check = try PageCheck(path, extent, checkedPage)
        try check.walk()
    }

    private init(_ path: String, _ extent: Extent, _ checkedPage: @escaping () -> Void) throws(StoreError) {
        let file = try PageFile(path)
        var newest: MetaPage?
        var bytes: [UInt8] = []
        for number in 0..<2 {
            try file.read(number, into: &bytes)
            guard let meta = bytes.withUnsafeBytes({ MetaPage(Page($0, number: number)) }),
                meta.pageByteCount == file.pageByteCount
            else { throw file.damaged("page \(number) is not a meta page") }
            if meta.transaction > newest?.transaction ?? 0 || newest == nil { newest = meta }
        }
        guard let meta = newest else { throw file.damaged("there is no meta page") }
        guard meta.lastPage >= 1, meta.lastPage < UInt64(Int.max) else {
            throw file.damaged("its last page is \(meta.lastPage)")
        }
        guard meta.transaction < UInt64(Int.max) else {
            throw file.damaged("its last transaction is \(meta.transaction), which no store reaches")
        }
        used = PageSet(count: file.pages)
        levels = Array(repeating: [], count: Self.depthMax)
        self.meta = meta
        self.extent = extent
        self.checkedPage = checkedPage
        self.file = file
    }

    private mutating func walk() throws(StoreError) {
        _ = used.insert(0)
        _ = used.insert(1)
        try walk(meta.free, .free, "the free list")
        try walk(meta.main, .main, "the root table")
        for (name, tree) in tables { try walk(tree, .table, "the table `\(name)`") }
        // A page that a transaction allocated and freed again was never written: the file may end before it.
        var absent = Set<Int>()
        for page in freePages {
            guard page >= 2, page < file.pages ? used.insert(page) : absent.insert(page).inserted else {
                throw file.damaged("page \(page) is both on the free list and in use, or is listed twice")
            }
        }
        let missing = max(Int(meta.lastPage) + 1 - file.pages, 0)
        guard absent.count == missing else {
            throw file.damaged(
                "it was truncated to \(file.pages) pages; \(absent.count) of the \(missing) missing pages are free")
        }
    }

    private mutating func walk(_ tree: PageTree, _ kind: Kind, _ name: String) throws(StoreError) {
        counts = Counts()
        (lastKey, floor) = ([], [])
        if tree.root == PageTree.noRoot {
            guard tree.depth == 0, tree.entries == 0 else { throw file.damaged("\(name) has entries but no page") }
            return
        }
        guard tree.depth >= 1, tree.depth <= Self.depthMax else {
            throw file.damaged("\(name) has \(tree.depth) levels, outside 1...\(Self.depthMax)")
        }
        try walkPage(tree.root, level: 0, of: tree, kind, name)
        for (what, count, stated) in [
            ("branch pages", counts.branchPages, tree.branchPages), ("leaf pages", counts.leafPages, tree.leafPages),
            ("overflow pages", counts.overflowPages, tree.overflowPages), ("entries", counts.entries, tree.entries),
        ] where count != stated && (extent == .values || what != "overflow pages") {
            throw file.damaged("\(name) has \(count) \(what), but its record says \(stated)")
        }
    }

    /// Takes a run of pages for one use.
    private mutating func take(_ number: UInt64, count: Int = 1, _ name: String) throws(StoreError) -> Int {
        guard number >= 2, count >= 1, number <= meta.lastPage, UInt64(count) - 1 <= meta.lastPage - number else {
            throw file.damaged("\(name) points at page \(number), outside 2...\(meta.lastPage)")
        }
        guard number < UInt64(file.pages), count <= file.pages - Int(number) else {
            throw file.damaged(
                "it was truncated to \(file.pages) pages, and \(name) uses page \(Int(number) + count - 1)")
        }
        for page in Int(number)..<Int(number) + count {
            guard used.insert(page) else {
                throw file.damaged("page \(page) is used twice, the second time by \(name)")
            }
        }
        return Int(number)
    }

    private mutating func walkPage(
        _ pointer: UInt64, level: Int, of tree: PageTree, _ kind: Kind, _ name: String
    ) throws(StoreError) {
        let number = try take(pointer, name)
        var bytes = levels[level]
        levels[level] = []
        try file.read(number, into: &bytes)
        checkedPage()
        let isLeaf = level == tree.depth - 1
        let nodes = try readNodes(bytes, number: number, isLeaf: isLeaf, kind, name)
        if isLeaf { counts.leafPages += 1 } else { counts.branchPages += 1 }
        levels[level] = bytes
        if !isLeaf { prefetchChildren(nodes) }
        for node in nodes {
            switch node {
            case .child(let page, let separator):
                // The first child's key has no meaning and is usually empty.
                if let separator {
                    guard isAbove(separator, kind) else {
                        throw file.damaged("page \(number) of \(name) points past its keys")
                    }
                    floor = separator
                }
                try walkPage(page, level: level + 1, of: tree, kind, name)
            case .large(let page, let byteCount): try walkLarge(page, byteCount: byteCount, kind, name)
            case .tree(let table, let found): tables.append((table, found))
            case .free(let pages): freePages += pages
            case .value: break
            }
        }
    }

    private func prefetchChildren(_ nodes: [Node]) {
        file.prefetch(
            nodes.compactMap { node in
                if case .child(let page, _) = node { Int(exactly: page) } else { nil }
            })
    }

    private enum Node {
        case child(UInt64, separator: [UInt8]?)
        case value
        case large(UInt64, byteCount: Int)
        case tree(String, PageTree)
        case free([Int])
    }

    /// The nodes of a page, with their places and keys checked. A node: low and high half of the value's size (2 + 2 bytes),
    /// flags (2), the key's size (2), key, value; in a branch the first three are the child's number.
    private mutating func readNodes(
        _ bytes: [UInt8], number: Int, isLeaf: Bool, _ kind: Kind, _ name: String
    ) throws(StoreError) -> [Node] {
        let result = bytes.withUnsafeBytes { buffer -> Result<[Node], StoreError> in
            Result { () throws(StoreError) in
                try readNodes(of: Page(buffer, number: number), isLeaf: isLeaf, kind, name)
            }
        }
        return try result.get()
    }

    private mutating func readNodes(
        of page: Page, isLeaf: Bool, _ kind: Kind, _ name: String
    ) throws(StoreError) -> [Node] {
        let size = file.pageByteCount
        func wrong(_ what: String) -> StoreError { file.damaged("page \(page.number) of \(name) \(what)") }
        guard page.ownNumber == UInt64(page.number) else { throw wrong("states the number \(page.ownNumber)") }
        guard page.flags == (isLeaf ? Page.leaf : Page.branch) else { throw wrong("has the flags \(page.flags)") }
        let (lower, upper) = (page.lower, page.upper)
        guard lower >= Page.headerByteCount, lower % 2 == 0, lower <= upper, upper <= size else {
            throw wrong("has its free space at \(lower)..<\(upper)")
        }
        let count = (lower - Page.headerByteCount) / 2
        guard count >= 1 else { throw wrong("has \(count) nodes") }
        var nodes: [Node] = []
        nodes.reserveCapacity(count)
        for index in 0..<count {
            let offset = Int(page.integer(Page.headerByteCount + 2 * index, UInt16.self))
            guard offset >= upper, offset % 2 == 0, offset + 8 <= size else { throw wrong("has a node at \(offset)") }
            let low = UInt64(page.integer(offset, UInt16.self)) | UInt64(page.integer(offset + 2, UInt16.self)) << 16
            let flags = page.integer(offset + 4, UInt16.self)
            let keyByteCount = Int(page.integer(offset + 6, UInt16.self))
            let rest = size - offset - 8 - keyByteCount
            guard rest >= 0, keyByteCount <= 511 else { throw wrong("has a key of \(keyByteCount) bytes") }
            let key = Array(page.bytes[offset + 8..<offset + 8 + keyByteCount])
            if isLeaf {
                guard isAbove(key, kind), floor.isEmpty || !isBelow(key, floor, kind) else {
                    throw wrong("has a key that is not greater than the one before it")
                }
                (lastKey, floor) = (key, [])
                counts.entries += 1
                let place = offset + 8 + keyByteCount
                nodes.append(try leafNode(page, place, byteCount: Int(low), rest, flags, key, kind, name))
            } else {
                nodes.append(.child(low | UInt64(flags) << 32, separator: index > 0 ? key : nil))
            }
        }
        return nodes
    }

    /// Keys rise through the whole tree.
    private func isAbove(_ key: [UInt8], _ kind: Kind) -> Bool {
        if case .free = kind, key.count != 8 { return false }
        return !key.isEmpty && (lastKey.isEmpty || isBelow(lastKey, key, kind))
    }

    /// Keys of the free list are transaction numbers, native integers; others are compared as bytes.
    private func isBelow(_ a: [UInt8], _ b: [UInt8], _ kind: Kind) -> Bool {
        if case .free = kind { return Self.number(a) < Self.number(b) }
        return a.lexicographicallyPrecedes(b)
    }

    private static func number(_ key: [UInt8]) -> UInt64 {
        key.withUnsafeBytes { UInt64(littleEndian: $0.loadUnaligned(as: UInt64.self)) }
    }

    private func leafNode(
        _ page: Page, _ place: Int, byteCount: Int, _ rest: Int, _ flags: UInt16, _ key: [UInt8], _ kind: Kind,
        _ name: String
    ) throws(StoreError) -> Node {
        func wrong(_ what: String) -> StoreError { file.damaged("page \(page.number) of \(name) \(what)") }
        let (large, subtree): (UInt16, UInt16) = (1, 2)
        if flags == large {
            guard rest >= 8 else { throw wrong("has a node that extends past its end") }
            return .large(page.integer(place), byteCount: byteCount)
        }
        guard byteCount <= rest else { throw wrong("has a value of \(byteCount) bytes that extends past its end") }
        switch (flags, kind) {
        case (0, .table): return .value
        case (0, .free):
            return .free(try freeList(UnsafeRawBufferPointer(rebasing: page.bytes[place..<place + byteCount])))
        case (subtree, .main):
            guard byteCount == PageTree.byteCount else { throw wrong("has a table's record of \(byteCount) bytes") }
            let tree = PageTree(page, at: place)
            guard tree.flags == 0 else { throw wrong("has a table with the flags \(tree.flags)") }
            return .tree(String(decoding: key, as: UTF8.self), tree)
        default: throw wrong("has a node with the flags \(flags)")
        }
    }

    /// A count, then this many page numbers.
    private func freeList(_ bytes: UnsafeRawBufferPointer) throws(StoreError) -> [Int] {
        guard bytes.count >= 8, bytes.count % 8 == 0 else { throw file.damaged("the free list has a truncated record") }
        let count = bytes.loadUnaligned(as: UInt64.self)
        guard count <= UInt64(bytes.count / 8 - 1) else { throw file.damaged("the free list has a truncated record") }
        var pages: [Int] = []
        for index in 0..<Int(count) {
            let page = bytes.loadUnaligned(fromByteOffset: 8 + 8 * index, as: UInt64.self)
            guard page <= meta.lastPage else { throw file.damaged("the free list has page \(page)") }
            pages.append(Int(page))
        }
        return pages
    }

    /// A value in its own run of pages, after one page header. A run may be longer than its value: LMDB writes a
    /// shorter value over a longer one in place.
    private mutating func walkLarge(
        _ pointer: UInt64, byteCount: Int, _ kind: Kind, _ name: String
    ) throws(StoreError) {
        let needed = (Page.headerByteCount - 1 + byteCount) / file.pageByteCount + 1
        let isFreeList: Bool
        if case .free = kind { isFreeList = true } else { isFreeList = false }
        guard extent == .values || isFreeList else {
            _ = try take(pointer, count: needed, name)
            return
        }
        guard pointer <= meta.lastPage else { throw file.damaged("\(name) points at page \(pointer)") }
        let number = Int(pointer)
        var bytes: [UInt8] = []
        try file.read(number, into: &bytes)
        checkedPage()
        let (own, flags, count) = bytes.withUnsafeBytes { buffer in
            let page = Page(buffer, number: number)
            return (page.ownNumber, page.flags, page.overflowPages)
        }
        guard own == pointer, flags == Page.overflow, count >= needed else {
            throw file.damaged(
                "page \(number) of \(name) is not the first of the \(needed) of a value (number \(own), flags \(flags), "
                    + "\(count) pages)")
        }
        _ = try take(pointer, count: count, name)
        counts.overflowPages += UInt64(count)
        // Only the free list's contents lead on to pages.
        guard isFreeList else { return }
        try file.read(number, count: needed, into: &bytes)
        let list = bytes.withUnsafeBytes { buffer in
            Result { () throws(StoreError) in
                try freeList(
                    UnsafeRawBufferPointer(
                        rebasing: buffer[Page.headerByteCount..<Page.headerByteCount + byteCount]))
            }
        }
        freePages += try list.get()
    }
}

/// A set of page numbers below a bound, a bit each: 32 MiB for a file of 1 TiB.
struct PageSet: Sendable {
    private var words: [UInt64]

    init(count: Int) { words = Array(repeating: 0, count: (count + 63) / 64) }

    /// - Returns: false if the page was already in the set.
    mutating func insert(_ page: Int) -> Bool {
        let bit = UInt64(1) << UInt64(page % 64)
        guard words[page / 64] & bit == 0 else { return false }
        words[page / 64] |= bit
        return true
    }

    func contains(_ page: Int) -> Bool { words[page / 64] & UInt64(1) << UInt64(page % 64) != 0 }
}
