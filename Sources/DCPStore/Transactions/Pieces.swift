// SPDX-License-Identifier: Apache-2.0

/// Values in pieces.
///
/// LMDB stores a value of more than half a page in a run of consecutive pages. In a store with scattered free pages
/// there may be no run long enough, however many pages are free; then the value is stored as several values of one page
/// each, under its key and their number. Every free page can thus hold data.
public enum PieceKey {
    public static let numberByteCount = 4

    static func of(_ key: [UInt8], _ number: Int) -> [UInt8] {
        key + withUnsafeBytes(of: UInt32(number).bigEndian) { Array($0) }
    }

    /// - Returns: the number; nil for another value's key.
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
    /// Puts a value as `reserve` does, or in pieces if no run of pages is long enough.
    ///
    /// Neither the value nor pieces of it may exist: the other kind would stay.
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
    /// - Parameter pages: the number of its pages.
    /// - Returns: false if there was none.
    @discardableResult
    public mutating func remove(_ table: Table, _ key: [UInt8], pages: Int = 0) throws(StoreError) -> Bool {
        if try delete(table, key, pages: pages) { return true }
        return try removePieces(table, key)
    }

    /// - Returns: false if there was none.
    @discardableResult
    public mutating func removePieces(_ table: Table, _ key: [UInt8]) throws(StoreError) -> Bool {
        // All existing pieces: a damaged value may lack some.
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
    /// Passes a value to a body: in place, or assembled in memory that is valid only in the body.
    /// - Returns: nil if there is none, or a piece before the last existing one is missing.
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
