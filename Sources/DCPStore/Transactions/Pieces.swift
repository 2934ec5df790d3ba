/// Values in pieces.
///
/// LMDB gives a value of more than half a page a run of pages side by side. In a store whose free pages lie in pieces there
/// may be none as long, however many pages are free; then the value is stored as several of one page each, under its key and
/// their number. So every free page can hold data, whatever its neighbours are.
public enum PieceKey {
    public static let numberByteCount = 4

    static func of(_ key: [UInt8], _ number: Int) -> [UInt8] {
        key + withUnsafeBytes(of: UInt32(number).bigEndian) { Array($0) }
    }

    /// - Returns: the number, nil when it is another value's key.
    static func number(_ found: UnsafeRawBufferPointer, of key: [UInt8]) -> Int? {
        guard found.count == key.count + numberByteCount, found.starts(with: key) else { return nil }
        return Int(UInt32(bigEndian: found.loadUnaligned(fromByteOffset: key.count, as: UInt32.self)))
    }
}

extension Environment {
    /// Bytes of each piece but the last: with the header of 16 bytes exactly a page.
    public var pieceByteCount: Int { pageByteCount - 16 }

    public func pieces(valueByteCount: Int) -> Int { (valueByteCount + pieceByteCount - 1) / pieceByteCount }
}

extension WriteTransaction {
    /// Puts a value as `reserve` does, or in pieces where no run of pages is as long as it.
    ///
    /// Neither the value nor pieces of it may be there: what is there of the other kind would stay.
    /// - Returns: whether it is in pieces.
    @discardableResult
    public mutating func place(
        _ table: Table, _ key: [UInt8], byteCount: Int, fill: (UnsafeMutableRawBufferPointer) -> Void
    ) throws(StoreError) -> Bool {
        guard environment.runPages(valueByteCount: byteCount) >= runPagesMissing else {
            try reserve(table, key, byteCount: byteCount, fill: fill)
            return false
        }
        let value = UnsafeMutableRawBufferPointer.allocate(byteCount: byteCount, alignment: 64)
        defer { value.deallocate() }
        fill(value)
        for number in 0..<environment.pieces(valueByteCount: byteCount) {
            let start = number * environment.pieceByteCount
            let piece = UnsafeRawBufferPointer(
                rebasing: value[start..<min(start + environment.pieceByteCount, byteCount)])
            try reserve(table, PieceKey.of(key, number), byteCount: piece.count) { $0.copyMemory(from: piece) }
        }
        return true
    }

    /// Deletes a value, whole or in pieces.
    /// - Parameter pages: what it takes.
    /// - Returns: false when there was none.
    @discardableResult
    public mutating func remove(_ table: Table, _ key: [UInt8], pages: Int = 0) throws(StoreError) -> Bool {
        if try delete(table, key, pages: pages) { return true }
        return try removePieces(table, key)
    }

    /// - Returns: false when there was none.
    @discardableResult
    public mutating func removePieces(_ table: Table, _ key: [UInt8]) throws(StoreError) -> Bool {
        // Whichever are there: of a damaged value one may be missing.
        var pieces: [[UInt8]] = []
        try scan(table, from: PieceKey.of(key, 0)) { found, _ in
            guard PieceKey.number(found, of: key) != nil else { return false }
            pieces.append(Array(found))
            return true
        }
        for piece in pieces { try delete(table, piece, pages: 1) }
        return !pieces.isEmpty
    }

    /// As `ReadTransaction.withValue`.
    public borrowing func withValue<Result>(
        _ table: Table, _ key: [UInt8], _ body: (UnsafeRawBufferPointer) -> Result
    ) throws(StoreError) -> Result? { try Access.withValue(try live(), table, key, body) }
}

extension ReadTransaction {
    /// Hands a value to a body: where it lies, or put together in memory that is the body's only.
    /// - Returns: nil when there is none, or not all its pieces up to the last that is there.
    public borrowing func withValue<Result>(
        _ table: Table, _ key: [UInt8], _ body: (UnsafeRawBufferPointer) -> Result
    ) throws(StoreError) -> Result? { try Access.withValue(handle, table, key, body) }
}

extension Access {
    static func withValue<Result>(
        _ transaction: OpaquePointer, _ table: Table, _ key: [UInt8], _ body: (UnsafeRawBufferPointer) -> Result
    ) throws(StoreError) -> Result? {
        if let value = try get(transaction, table, key) { return body(value) }
        var pieces: [UnsafeRawBufferPointer] = []
        var isWhole = true
        try scan(transaction, table, from: PieceKey.of(key, 0)) { found, piece in
            guard let number = PieceKey.number(found, of: key) else { return false }
            isWhole = number == pieces.count
            pieces.append(piece)
            return isWhole
        }
        guard isWhole, !pieces.isEmpty else { return nil }
        let value = UnsafeMutableRawBufferPointer.allocate(
            byteCount: pieces.reduce(0) { $0 + $1.count }, alignment: 64)
        defer { value.deallocate() }
        var end = 0
        for piece in pieces {
            UnsafeMutableRawBufferPointer(rebasing: value[end...]).copyMemory(from: piece)
            end += piece.count
        }
        return body(UnsafeRawBufferPointer(value))
    }
}
