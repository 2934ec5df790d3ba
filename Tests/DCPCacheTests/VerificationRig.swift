// SPDX-License-Identifier: Apache-2.0

import DCPCache
import DCPCore
import DCPStore
import Foundation
import Testing

/// What a whole verification came to.
struct Verdict {
    var findings: [StoreFinding] = []
    var progress = VerificationProgress()

    /// Runs a verification to its end; `between` is called after each batch but the last.
    init(_ verification: StoreVerification, between: () throws -> Void = {}) throws {
        while true {
            let batch = try verification.advance()
            findings += batch.findings
            progress = batch.progress
            if batch.isDone { return }
            try between()
        }
    }

    var damage: [StoreFinding] { findings.filter(\.isDamage) }
    var leftovers: [StoreFinding] { findings.filter { !$0.isDamage } }
}

extension Rig {
    /// Closes the cache and verifies its store as a stopped rank's.
    func verifyStopped() throws -> Verdict {
        cache.close()
        let verification = try StoreVerification.open(directory: storePath)
        defer { verification.close() }
        return try Verdict(verification)
    }

    /// Closes the cache and changes the data file.
    func editStopped(_ change: (inout Data) throws -> Void) throws {
        cache.close()
        let url = URL(fileURLWithPath: dataPath)
        var data = try Data(contentsOf: url)
        try change(&data)
        try data.write(to: url)
    }

    /// Flips one bit at an offset from wherever some bytes are: freed pages still hold what a leaf held before.
    func flip(_ bytes: Data, at offset: Int) throws {
        try editStopped { data in
            var start = 0
            while let range = data.range(of: bytes, in: start..<data.count) {
                data[range.lowerBound + offset] ^= 0x10
                start = range.upperBound
            }
            #expect(start > 0, "the bytes to damage were not found")
        }
    }

    /// Closes the cache and changes the store through its tables.
    func change(_ body: (inout WriteTransaction, (String) -> Table) throws -> Void) throws {
        cache.close()
        let environment = try Environment(
            directory: storePath, mapByteCountMax: 1 << 30, tablesMax: 7, durability: .never)
        defer { environment.close() }
        var transaction = try environment.beginSetup()
        var tables: [String: Table] = [:]
        for name in ["meta", "models", "sequences", "blocks", "tail", "tokens", "annotations"] {
            tables[name] = try transaction.openTable(name)
        }
        try body(&transaction) { tables[$0]! }
        try transaction.commit()
    }

    /// Closes the cache; the writers and local indices of all rows in the store.
    func rows() throws -> [[UInt64]] {
        var rows: [[UInt64]] = []
        try change { transaction, table in
            try transaction.scan(table("tail"), from: []) { key, _ in
                rows.append([0, 8].map { UInt64(bigEndian: key.loadUnaligned(fromByteOffset: $0, as: UInt64.self)) })
                return true
            }
        }
        return rows
    }

    static func key(_ parts: any FixedWidthInteger...) -> [UInt8] { parts.flatMap { bigEndian($0) } }

    private static func bigEndian(_ value: some FixedWidthInteger) -> [UInt8] {
        withUnsafeBytes(of: value.bigEndian) { Array($0) }
    }

    static func block(writer: UInt64, layer: UInt32, index: UInt32) -> [UInt8] {
        key(model.value, writer, layer, index)
    }

    /// The begin of a block's header, as it is in the file.
    static func header(writer: UInt64, layer: UInt32, index: UInt32) -> Data {
        var bytes = Data("DCPB".utf8)
        withUnsafeBytes(of: UInt32(LayoutFingerprint.storeFormat).littleEndian) { bytes.append(contentsOf: $0) }
        withUnsafeBytes(of: writer.littleEndian) { bytes.append(contentsOf: $0) }
        withUnsafeBytes(of: layer.littleEndian) { bytes.append(contentsOf: $0) }
        withUnsafeBytes(of: index.littleEndian) { bytes.append(contentsOf: $0) }
        return bytes
    }
}
