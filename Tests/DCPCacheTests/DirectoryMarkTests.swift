// SPDX-License-Identifier: Apache-2.0

import DCPCache
import DCPCore
import Testing

@Suite("ShardCache: how far the directory has come")
struct DirectoryMarkTests {
    @Test("it is stored with the next write, and never causes one; a new epoch starts without it")
    func written() throws {
        let rig = try Rig()
        try finish { rig.cache.persist(epoch: Epoch(3), of: ClusterID(77), completion: $0) }
        let before = try rig.cache.statistics().transactionsCommitted
        rig.cache.note(DirectoryMark(12))
        rig.cache.note(DirectoryMark(11))
        #expect(rig.cache.directoryMark == .none)
        try rig.open(1)
        #expect(rig.cache.directoryMark == DirectoryMark(12))
        #expect(try rig.cache.statistics().transactionsCommitted == before + 1)
        try rig.reopen()
        #expect(rig.cache.directoryMark == DirectoryMark(12) && rig.cache.highestEpoch == Epoch(3))

        rig.cache.note(DirectoryMark(13))
        // The same epoch again: the mark is kept.
        try finish { rig.cache.persist(epoch: Epoch(3), completion: $0) }
        try rig.open(2)
        #expect(rig.cache.directoryMark == DirectoryMark(12))
        rig.cache.note(DirectoryMark(14))
        try finish { rig.cache.persist(epoch: Epoch(4), completion: $0) }
        #expect(rig.cache.directoryMark == .none)
        // Of a directory that was made anew.
        rig.cache.note(DirectoryMark(2))
        try rig.open(3)
        try rig.reopen()
        #expect(rig.cache.directoryMark == DirectoryMark(2) && rig.cache.highestEpoch == Epoch(4))
    }
}
