// SPDX-License-Identifier: Apache-2.0

import DCPStore
import DCPTestKit
import Glibc
import Synchronization
import Testing

/// A disk or a store without room: what is refused, and when it ends.
@Suite("disk that is full")
struct FullDiskTests {
    @Test("a disk that refuses writes fails commits, changes nothing, and is retried until it accepts them")
    func refusedWrite() throws {
        let (disk, bench) = try FaultyDisk.under(.never)
        let conditions = Conditions()
        bench.writer.observeCondition { conditions.note($0) }
        try bench.put("a")
        for code in [ENOSPC, EIO, EDQUOT] {
            disk.failWrites(code)
            let error = try refusal { try bench.put("b", byteCount: 100_000) }
            #expect(error.code == .full && error.cause == code)
            #expect(try bench.value("b") == nil && bench.value("a") != nil)
            let health = conditions.next()
            #expect(health.condition == .refused(code))
            #expect(health.wantedByteCount >= 100_000)
            #expect(!bench.environment.isSuspect)
            // No commit any more: the probe finds the room.
            disk.failWrites(0)
            #expect(conditions.next().condition == .writable)
            #expect(bench.writer.health.wantedByteCount == 0)
        }
        try bench.put("b", byteCount: 100_000)
    }

    @Test("a commit as large as the refused one ends the refusal; a smaller one does not")
    func endOfRefusal() throws {
        let (disk, bench) = try FaultyDisk.under(.never)
        try bench.put("a")
        disk.failWrites(ENOSPC)
        let (table, writer) = (bench.table, bench.writer)
        let small = Outcome()
        let seen = Mutex<StoreCondition?>(nil)
        // On the writer's thread, so that no probe comes between the two.
        writer.submit(
            WriteJob(
                body: { try $0.put(table, [1], [UInt8](repeating: 1, count: 1 << 20)) },
                completion: { _ in
                    disk.failWrites(0)
                    writer.submit(
                        WriteJob(
                            body: { try $0.put(table, [2], [1]) },
                            completion: { result in
                                seen.withLock { $0 = writer.health.condition }
                                small.finish(result)
                            }))
                }))
        try small.wait()
        #expect(seen.withLock { $0 } == .refused(ENOSPC))
        try bench.put("b", byteCount: 1 << 20)
        #expect(bench.writer.health.condition == .writable)
    }

    @Test("watermarks: full above the high one until below the low one, and the writer says so at once")
    func watermarks() throws {
        let bench = try Bench(mapByteCountMax: 4 << 20)
        let conditions = Conditions()
        bench.writer.observeCondition { conditions.note($0) }
        let capacity = bench.writer.health.capacityByteCount
        #expect(capacity == 4 << 20)
        var written = 0
        while bench.writer.health.condition == .writable {
            try bench.put("k\(written)", byteCount: 50_000)
            written += 1
        }
        #expect(conditions.next().condition == .full)
        #expect(bench.writer.health.usedByteCount >= Watermarks.standard.highByteCount(capacity: capacity))
        // Data is still taken, up to the capacity.
        try bench.put("more", byteCount: 50_000)
        while bench.writer.health.condition == .full {
            written -= 1
            let used = bench.writer.health.usedByteCount
            #expect(used >= Watermarks.standard.lowByteCount(capacity: capacity))
            try bench.delete("k\(written)")
        }
        #expect(conditions.next().condition == .writable)
        #expect(bench.writer.health.usedByteCount < Watermarks.standard.lowByteCount(capacity: capacity))
    }

    @Test("a limit of the disk holds for the file, whatever is written and deleted")
    func diskLimit() throws {
        for limit in [4 << 20, 16 << 20] {
            let bench = try Bench(mapByteCountMax: Environment.mapByteCountMax(fileByteCountMax: limit))
            for round in 0..<3 {
                var written = 0
                while (try? bench.put("\(round)-\(written)", byteCount: 30_000)) != nil { written += 1 }
                #expect(written > 10)
                for index in 0..<written { try bench.delete("\(round)-\(index)") }
            }
            var status = stat()
            stat(bench.directory.path("store/data.mdb"), &status)
            #expect(status.st_size <= limit && status.st_size > limit / 2)
        }
    }

    @Test("watermarks are ordered percentages")
    func watermarkRange() {
        #expect(Watermarks(high: 95, low: 90) == .standard)
        for (high, low) in [(90, 95), (50, 50), (101, 50), (50, 0)] { #expect(Watermarks(high: high, low: low) == nil) }
        #expect(Watermarks.standard.highByteCount(capacity: .max) > .max / 100 * 94)
        #expect(Watermarks.standard.lowByteCount(capacity: 1000) == 900)
    }
}
