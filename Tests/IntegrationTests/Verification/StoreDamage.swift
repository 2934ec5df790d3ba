// SPDX-License-Identifier: Apache-2.0

import DCPCore
import DCPLocalCluster
import Foundation
import Testing

/// Bits flipped in the store of a rank that is stopped.
struct StoreDamage {
    let cluster: TestCluster
    let rank: RankIndex

    init(_ cluster: TestCluster, rank: UInt16) {
        self.cluster = cluster
        self.rank = RankIndex(rank)
    }

    var store: String { cluster.local.directory.data(of: .rank(rank)) }

    /// Stops the rank, flips a bit at an offset from wherever some bytes are, and starts it again.
    func flip(_ bytes: Data, at offset: Int, whileStopped: () async throws -> Void = {}) async throws {
        _ = try await cluster.local.stop(.rank(rank), deadline: .seconds(60))
        let url = URL(filePath: store + "/data.mdb")
        var data = try Data(contentsOf: url)
        var start = 0
        // Freed pages still hold what a leaf held before.
        while let range = data.range(of: bytes, in: start..<data.count) {
            data[range.lowerBound + offset] ^= 0x10
            start = range.upperBound
        }
        try #require(start > 0, "the bytes to damage were not found")
        try data.write(to: url)
        try await whileStopped()
        try cluster.local.start(.rank(rank))
        try await cluster.waitUntilReady()
    }

    /// The begin of a block's header; the first sequence that a rank opens writes as 1.
    static func block(writer: UInt64, layer: UInt32, index: UInt32) -> Data {
        var bytes = Data("DCPB".utf8)
        append(UInt32(LayoutFingerprint.storeFormat), to: &bytes)
        append(writer, to: &bytes)
        append(layer, to: &bytes)
        append(index, to: &bytes)
        return bytes
    }

    /// The begin of the record of a sequence that is no fork, and forked from nothing at 0.
    static func record(model: ModelID, committed: Int) -> Data {
        var bytes = Data()
        append(model.value, to: &bytes)
        for field in [UInt32(0), 0, 0, 0, 0] { append(field, to: &bytes) }
        append(UInt64(committed), to: &bytes)
        return bytes
    }

    private static func append<Value: FixedWidthInteger>(_ value: Value, to bytes: inout Data) {
        withUnsafeBytes(of: value.littleEndian) { bytes.append(contentsOf: $0) }
    }
}
