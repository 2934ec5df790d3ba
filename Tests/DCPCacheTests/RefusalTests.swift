// SPDX-License-Identifier: Apache-2.0

import DCPCache
import DCPCore
import DCPTestKit
import Foundation
import Testing

@Suite("refusals at open")
struct RefusalTests {
    @discardableResult
    private func open(
        _ rig: Rig, rank: UInt16 = 0, ranks: Int = 2, interleave: Int = 1, blockTokens: Int = 16
    ) throws -> ShardCache {
        try ShardCache.open(
            directory: rig.storePath, rank: RankIndex(rank),
            cluster: ClusterShape(
                ranks: ranks, headGroups: 1, interleave: interleave, blockTokens: blockTokens, exchange: .allToAll))
    }

    @Test("another rank's, another cluster's and another layout's store is refused with both values")
    func identity() throws {
        let rig = try Rig(ranks: 2)
        rig.cache.close()
        expect(.storeRefused, "rank 0", "rank 1", "Give this rank") { try open(rig, rank: 1) }
        expect(.storeRefused, "W=2", "W=4", "Use that cluster") { try open(rig, ranks: 4) }
        expect(.storeRefused, "I=1", "I=4") { try open(rig, interleave: 4) }
        expect(.storeRefused, "B=16", "B=32") { try open(rig, blockTokens: 32) }
        try open(rig)
    }

    @Test("another format is refused, a damaged superblock too")
    func format() throws {
        let rig = try Rig(ranks: 2)
        let magic = Data("DCPS".utf8)
        // A format of the future, with a checksum that fits.
        rig.cache.close()
        let url = URL(fileURLWithPath: rig.dataPath)
        let original = try Data(contentsOf: url)
        var data = original
        var changed = 0
        while let at = data.range(of: magic, in: (changed == 0 ? 0 : changed)..<data.count) {
            data[at.lowerBound + 4] = 99
            var crc = CRC32C()
            Data("superblock".utf8).withUnsafeBytes { crc.update($0) }
            data[at.lowerBound..<at.lowerBound + 48].withUnsafeBytes { crc.update($0) }
            withUnsafeBytes(of: crc.value.littleEndian) {
                data.replaceSubrange(at.lowerBound + 48..<at.lowerBound + 52, with: $0)
            }
            changed = at.upperBound
        }
        #expect(changed > 0)
        try data.write(to: url)
        expect(.storeRefused, "format 99", "format \(LayoutFingerprint.storeFormat)") { try open(rig) }
        data = original
        while let at = data.range(of: magic) { data[at.lowerBound] = 0 }
        try data.write(to: url)
        expect(.storeDamaged, "superblock") { try open(rig) }
    }

    @Test("a truncated data file is refused before it is read, an emptied one is not taken for a new store")
    func truncated() throws {
        let rig = try Rig(ranks: 2)
        try rig.open(1)
        try rig.appendAll(1, at: 0, [UInt32](repeating: 1, count: 200))
        try rig.commit(1, 200)
        rig.cache.close()
        let handle = try #require(FileHandle(forWritingAtPath: rig.dataPath))
        let size = try handle.seekToEnd()
        try handle.truncate(atOffset: size - 4096 * 3)
        expect(.storeDamaged, "truncated", rig.storePath) { try open(rig) }
        try handle.truncate(atOffset: 0)
        expect(.storeDamaged, "missing or empty") { try open(rig) }
        try FileManager.default.removeItem(atPath: rig.dataPath)
        expect(.storeDamaged, "missing or empty") { try open(rig) }
    }

    @Test("a store whose process was killed before it could mark it is marked at the next start")
    func unmarked() throws {
        let rig = try Rig(ranks: 2)
        rig.cache.close()
        let mark = rig.storePath + "/dcp-store.created"
        try FileManager.default.removeItem(atPath: mark)
        try open(rig).close()
        #expect(FileManager.default.fileExists(atPath: mark))
        try FileManager.default.removeItem(atPath: rig.dataPath)
        expect(.storeDamaged, "missing or empty") { try open(rig) }
    }

    @Test("a second opener in this process and one in another are refused with the holder's number")
    func twice() throws {
        let rig = try Rig(ranks: 2)
        expect(.storeRefused, "in use by process \(getpid())") { try open(rig) }
        rig.cache.close()
        let holder = try Crasher("hold", rig.directory.path("other"))
        #expect(holder.line() == "ready")
        expect(.storeRefused, "in use by process \(holder.process.processIdentifier)", "stop it") {
            _ = try ShardCache.open(
                directory: rig.directory.path("other"), rank: RankIndex(0),
                cluster: ClusterShape(
                    ranks: 1, headGroups: 1, interleave: 1, blockTokens: 16, exchange: .allToAll))
        }
        holder.kill()
    }

    @Test("a directory that cannot be, and a model that does not fit, say why")
    func others() throws {
        let rig = try Rig()
        expect(.storeRefused, "/proc/none") {
            _ = try ShardCache.open(directory: "/proc/none/here", rank: RankIndex(0), cluster: rig.cluster)
        }
        let other = try ModelDescription(
            layers: 3, queryHeads: 4, kvHeads: 2, keyDim: 8, valueDim: 10, scale: 1, softcap: nil, kvFormat: .float32)
        expect(.modelMismatch, "layers: 3, not 2") {
            try finish { rig.cache.putModel(id: Rig.model, name: "test", description: other, completion: $0) }
        }
    }
}
