// SPDX-License-Identifier: Apache-2.0

import DCPCache
import DCPCore
import DCPStore
import DCPTestKit
import Foundation
import Testing

@Suite("commit")
struct CommitTests {
    @Test("group commit: commits that wait together share a transaction, and all are durable")
    func group() throws {
        let rig = try Rig()
        let tags = (0..<UInt32(20)).map { $0 }
        for id in 1...UInt64(24) {
            try rig.open(id)
            try rig.appendAll(id, at: 0, tags)
        }
        let before = try rig.cache.statistics().transactionsCommitted
        let entered = DispatchSemaphore(value: 0)
        let gate = DispatchSemaphore(value: 0)
        rig.cache.persist(epoch: Epoch(1)) { _ in
            entered.signal()
            gate.wait()
        }
        entered.wait()
        let pending = (1...UInt64(24)).map { id in
            let pending = Pending()
            rig.cache.commit([(SequenceID(id), 20)]) { pending.finish($0) }
            return pending
        }
        gate.signal()
        for pending in pending { try pending.wait() }
        let after = try rig.cache.statistics().transactionsCommitted
        #expect(after - before == 2, "the epoch, and 24 commits in one")
        try rig.reopen()
        for id in 1...UInt64(24) { #expect(try rig.holds(id, tags)) }
    }

    @Test("several sequences in one commit: all or none")
    func together() throws {
        let rig = try Rig()
        for id in 1...UInt64(2) {
            try rig.open(id)
            try rig.appendAll(id, at: 0, [1, 2, 3])
        }
        expect(.positionMismatch, "sequence #2", "4") {
            try finish { rig.cache.commit([(SequenceID(1), 3), (SequenceID(2), 4)], completion: $0) }
        }
        #expect(try rig.state(1).committedLength == 0)
        try rig.cache.rewind(sequence: SequenceID(1), layer: 0, length: 2)
        try rig.append(1, layer: 0, at: 2, [3])
        try finish { rig.cache.commit([(SequenceID(1), 3), (SequenceID(2), 3)], completion: $0) }
        #expect(rig.cache.sequences.map(\.committedLength) == [3, 3])
    }

    @Test("a full map is retryable, reads continue, and truncation makes room")
    func mapFull() throws {
        let settings = ShardCache.Settings(mapByteCountMax: 4 << 20, durability: .never)
        let rig = try Rig(layers: 1, kvHeads: 4, dims: (64, 64), settings: settings)
        try fill(rig, until: .storeFull)
    }

    @Test("a full disk is retryable, reads continue, and truncation makes room")
    func diskFull() throws {
        let mount = TemporaryDirectory()
        guard try run("/bin/mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", mount.path) == 0 else {
            try Test.cancel("mounting a tmpfs needs root")
        }
        defer { _ = try? run("/bin/umount", "-l", mount.path) }
        let rig = try Rig(layers: 1, kvHeads: 4, dims: (64, 64), path: mount.path("store"))
        try fill(rig, until: .storeFull)
        rig.cache.close()
    }

    private func fill(_ rig: Rig, until code: ServiceError.Code) throws {
        try rig.open(1)
        let tags = (0..<UInt32(4000)).map { $0 }
        var length = 0
        var refusal: ServiceError?
        while length < 4000, refusal == nil {
            try rig.appendAll(1, at: length, Array(tags[length..<length + 40]))
            do {
                try rig.commit(1, length + 40)
                length += 40
            } catch let error as ServiceError {
                refusal = error
            }
        }
        #expect(refusal?.code == code && refusal?.isRetryable == true, "\(String(describing: refusal))")
        #expect(length >= 200, "only \(length) tokens fitted")
        #expect(try rig.state(1).committedLength == Position(length))
        #expect(try rig.holds(1, Array(tags[..<(length + 40)])), "served from RAM meanwhile")
        expect(code) { try rig.commit(1, length + 40) }
        let kept = length / 2 + 3
        try rig.truncate(1, kept)
        try rig.appendAll(1, at: kept, Array(tags[kept..<length]))
        // Pages freed by one transaction are free for a later one.
        try rig.commit(1, kept + 1)
        try rig.commit(1, length - 40)
        #expect(try rig.holds(1, Array(tags[..<length])))
        try rig.reopen()
        #expect(try rig.holds(1, Array(tags[..<(length - 40)])))
    }

    private func run(_ path: String, _ arguments: String...) throws -> Int32 {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: path)
        process.arguments = arguments
        process.standardError = FileHandle.nullDevice
        try process.run()
        process.waitUntilExit()
        return process.terminationStatus
    }

    @Test("sequences used from many threads at once: appends, readers and commits keep their bytes")
    func threads() throws {
        let rig = try Rig(rank: 1, ranks: 2, interleave: 4)
        for id in 1...UInt64(4) { try rig.open(id) }
        let shared = Shared(rig)
        DispatchQueue.concurrentPerform(iterations: 4) { index in
            let id = UInt64(index + 1)
            do {
                var tags: [UInt32] = []
                for round in 0..<60 {
                    let more = (0..<UInt32(1 + round % 13)).map { $0 &* 31 &+ UInt32(round) &* 1009 &+ UInt32(id) }
                    try shared.rig.appendAll(id, at: tags.count, more)
                    let held = try shared.rig.cache.context(
                        sequence: SequenceID(id), layer: 1, length: Position(tags.count))
                    let before = tags
                    tags += more
                    try shared.rig.commit(id, tags.count)
                    if round % 17 == 16 {
                        tags.removeLast(20)
                        try shared.rig.truncate(id, tags.count)
                    }
                    guard shared.rig.matches(held, before, layer: 1), try shared.rig.holds(id, tags) else {
                        Issue.record("sequence \(id) differs in round \(round)")
                        return
                    }
                }
            } catch {
                Issue.record("\(error)")
            }
        }
        #expect(try rig.cache.statistics().readers == 0)
    }
}

/// @unchecked Sendable: the rig's members are not changed while threads share it, and the cache is thread-safe.
final class Shared: @unchecked Sendable {
    let rig: Rig
    init(_ rig: Rig) { self.rig = rig }
}
