// SPDX-License-Identifier: Apache-2.0

import DCPClient
import DCPCore
import DCPHost
import DCPTestKit
import DCPWire
import Testing

extension Integration {
    @Suite("memory of idle sequences")
    struct IdleMemoryTests {
        private static let rank = DaemonRole.rank(RankIndex(0))
        /// What an idle committed sequence may take of a rank's memory, whatever its model and the tokens of its open block.
        private static let byteCountMax = 4096
        /// What the allocator keeps of freed memory, however many sequences there are: `M_TRIM_THRESHOLD` in CLinux. Their open
        /// blocks together have five times as much.
        private static let keptByteCountMax = 64 << 20

        @Test(
            "12,000 sequences with open blocks of 32 KiB a layer take less than 4 KiB each of a rank when they are idle"
        )
        func idle() async throws {
            let shape = try shape(4, 2, 64, 64, .bfloat16)
            let batch = 256
            let trace = Trace(shape, tokens: 2 * batch, salt: 88)
            // The limit makes the first ones leave while the last are written: few are ever in RAM at once.
            let setup = ClusterSetup(
                blockTokens: 64, rankArguments: ["--memory-idle", "1", "--memory-limit", "64MiB"])
            try await setup.run { cluster in
                try await cluster.withClient { client in
                    _ = try await client.registerModel("m", shape)
                    func fill(_ numbers: Range<Int>) async throws {
                        for start in stride(from: numbers.lowerBound, to: numbers.upperBound, by: batch) {
                            let names = (start..<min(start + batch, numbers.upperBound)).map { "idle-\($0)" }
                            let sequences = try await client.openSequences(names, model: "m").map { try $0.get() }
                            for layer in 0..<shape.layers {
                                // Two tokens of each, one on each rank.
                                let rows = trace.rows(layer, 0..<2 * sequences.count)
                                try await client.append(
                                    layer: layer, sequences.map { $0.entry(position: 0, count: 2) },
                                    model: sequences[0].model, keys: rows.keys, values: rows.values)
                            }
                            try await client.commit(
                                sequences.map { SequenceLength(sequence: $0.record.id, length: 2) })
                        }
                    }
                    func idleBytes() async throws -> Int {
                        _ = try await cluster.get("/metrics", of: Self.rank) {
                            $0.sample(#"dcp_resident_sequences{rank="0"}"#) == 0
                        }
                        let process = Int(try await client.rankStatuses()[0].processID)
                        // Without the mapped store, whose pages are in nobody's way.
                        return try #require(ProcessCounts.anonymousByteCount(of: process))
                    }
                    // What a rank takes for its work is there after the first ones, and stays.
                    try await fill(0..<2000)
                    let before = try await idleBytes()
                    try await fill(2000..<12_000)
                    let grown = try await idleBytes() - before
                    #expect(grown < 10_000 * Self.byteCountMax + Self.keptByteCountMax, "for 10,000 idle sequences")
                    // They come back as they were.
                    let sequence = try await client.openSequence("idle-11999", model: nil)
                    #expect(try await client.status(of: sequence).committedLength == 2)
                }
            }
        }
    }
}
