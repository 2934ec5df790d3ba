// SPDX-License-Identifier: Apache-2.0

import DCPCoordinator
import DCPCore
import DCPStore
import DCPTestKit
import DCPWire
import Synchronization
import Testing

/// One of each change, with each optional part present and absent.
private func allChanges() throws -> [StateChange] {
    let model = ModelRecord(id: ModelID(0x0102_0304), name: "smöl", description: try shape(softcap: 30))
    let record = SequenceRecord(id: SequenceID(0x0102_0304_0506_0708), name: "chat", model: model.id)
    let cuts = CutHistory([.init(epoch: Epoch(3), length: 0), .init(epoch: Epoch(4), length: 1 << 40)])
    return [
        .epoch(Epoch(UInt64.max - 1)), .store(RankIndex(0x0102), StoreID(high: 5, low: UInt64.max)), .model(model),
        .model(ModelRecord(id: ModelID(1), name: "", description: try shape())), .modelRemoved(ModelID(9)),
        .sequence(SequenceEntry(record: record)),
        .sequence(SequenceEntry(record: record, owner: "client:alice", isClosing: true)),
        .sequence(SequenceEntry(record: record, fork: .init(parent: SequenceID(3), length: 1 << 40))),
        .sequence(SequenceEntry(record: record, fork: .init(parent: SequenceID(0), length: 0), truncateLength: 0)),
        .sequence(SequenceEntry(record: record, truncateLength: 12, history: cuts)), .sequenceRemoved(SequenceID(8)),
        .nextIDs(model: 7, sequence: 9), .cluster(ClusterID(0x0102_0304_0506_0708)), .adopting(true), .adopting(false),
        .directoryMark(DirectoryMark(1 << 40)),
    ]
}

@Suite("Coordinator state: its bytes")
struct StateCodingTests {
    @Test("every change comes back from its key and value; a removal has no value")
    func roundTrip() throws {
        for change in try allChanges() {
            let (key, value) = StateCoding.encode(change)
            switch change {
            case .modelRemoved(let id):
                #expect(value == nil)
                #expect(key == StateCoding.encode(.model(ModelRecord(id: id, name: "x", description: try shape()))).key)
            case .adopting(false): #expect(value == nil && key == StateCoding.encode(.adopting(true)).key)
            case .sequenceRemoved(let id):
                let record = SequenceRecord(id: id, name: "x", model: ModelID(1))
                #expect(value == nil && key == StateCoding.encode(.sequence(SequenceEntry(record: record))).key)
            default: #expect(try StateCoding.decode(key: key, value: try #require(value)) == change)
            }
        }
        let cluster = try ClusterShape(ranks: 4, headGroups: 2, interleave: 4, blockTokens: 32, exchange: .allToAll)
        #expect(try StateCoding.decodeShape(try #require(StateCoding.encode(cluster).value)) == cluster)
    }

    @Test("golden keys: a letter, and a number that sorts")
    func keys() throws {
        let keys = try allChanges().map { StateCoding.encode($0).key }
        #expect(keys[0] == [0x65])
        #expect(keys[1] == [0x72, 1, 2])
        #expect(keys[2] == [0x6D, 1, 2, 3, 4])
        #expect(keys[5] == [0x71, 1, 2, 3, 4, 5, 6, 7, 8])
        #expect(keys[11...].map { $0 } == [[0x6E], [0x63], [0x61], [0x61], [0x64]])
        #expect(Set(keys.map { $0.map { $0 } }).count == 11)
    }

    @Test("any one flipped bit, a cut or an added byte is noticed, and the record is named")
    func damage() throws {
        for change in try allChanges() {
            let (key, stored) = StateCoding.encode(change)
            guard let value = stored else { continue }
            var damaged: [[UInt8]] = (0..<value.count).map { Array(value.prefix($0)) } + [value + [0]]
            for index in value.indices {
                for bit in 0..<8 as Range<UInt8> {
                    var flipped = value
                    flipped[index] ^= 1 << bit
                    damaged.append(flipped)
                }
            }
            for bytes in damaged {
                let error = try #require(throws: ServiceError.self) { try StateCoding.decode(key: key, value: bytes) }
                #expect(error.code == .storeDamaged)
                #expect(error.message.contains("record \(Character(Unicode.Scalar(key[0])))"))
            }
        }
    }

    @Test("an unknown key is damage", arguments: [[], [0x7A], [0x72, 1], [0x73, 1]] as [[UInt8]])
    func unknownKey(key: [UInt8]) throws {
        let value = try #require(StateCoding.encode(.epoch(Epoch(1))).value)
        let error = try #require(throws: ServiceError.self) { try StateCoding.decode(key: key, value: value) }
        #expect(error.code == .storeDamaged)
    }
}

@Suite("Coordinator store: a real directory", .timeLimit(.minutes(1)))
struct CoordinatorStoreTests {
    private let directory = TemporaryDirectory()

    private func cluster(_ ranks: Int = 2) throws -> ClusterShape {
        try ClusterShape(ranks: ranks, headGroups: 1, interleave: 1, blockTokens: 16, exchange: .allToAll)
    }

    /// Persists, and waits until it is durable.
    private func persist(_ changes: [StateChange], in store: CoordinatorStore) async throws {
        try await withCheckedThrowingContinuation { (continuation: CheckedContinuation<Void, any Error>) in
            store.persist(changes) { continuation.resume(with: $0.mapError { $0 as any Error }) }
        }
    }

    @Test("reopening gives the state that a machine persisted, with numbers that are not given again")
    func reopening() async throws {
        var driver = try Driver()
        driver.becomeReady()
        _ = try driver.carry(.registerModel(name: "m", try shape()))
        for name in ["a", "b", "c"] {
            _ = try driver.carry(.openSequence(name: name, model: "m", revision: "", create: true))
        }
        _ = try driver.carry(.close(name: "c"))
        _ = driver.ask(.fork(name: "a", newName: "d", length: 4))
        _ = driver.ask(.truncate(name: "b", length: 2))
        let path = directory.path("state")
        let store = try CoordinatorStore(directory: path, shape: try cluster(), newClusterID: Driver.cluster)
        #expect(store.initialState == CoordinatorState(shape: try cluster(), cluster: Driver.cluster))
        for change in driver.persisted { try await persist([change], in: store) }
        store.close()
        for _ in 0..<2 {
            let again = try CoordinatorStore(directory: path, shape: try cluster(), newClusterID: Driver.cluster)
            #expect(again.initialState == driver.machine.state)
            again.close()
        }
    }

    @Test("several changes at once, and removals")
    func removals() async throws {
        let path = directory.path("state")
        let store = try CoordinatorStore(directory: path, shape: try cluster())
        try await persist(try allChanges(), in: store)
        try await persist([.modelRemoved(ModelID(1)), .modelRemoved(ModelID(77))], in: store)
        store.close()
        let again = try CoordinatorStore(directory: path, shape: try cluster())
        #expect(again.initialState.models.keys.map(\.value) == [0x0102_0304])
        #expect(again.initialState.epoch == Epoch(UInt64.max - 1))
        #expect(again.initialState.sequences.values.map(\.truncateLength) == [12])
        again.close()
    }

    @Test("the map has room for the largest directory and for rewriting it at once, as an adoption does, twice over")
    func room() async throws {
        let store = try CoordinatorStore(directory: directory.path("state"), shape: try cluster())
        let count = 2000
        let longest = String(repeating: "x", count: CoordinatorMachine.nameByteCountMax)
        for length in [1, 2] {
            let cuts = (0..<CutHistory.cutsMax).map { CutHistory.Cut(epoch: Epoch(UInt64($0)), length: length) }
            let changes = (0..<count).map { number in
                let name = "\(1000 + number)" + longest.dropFirst(4)
                let record = SequenceRecord(
                    id: SequenceID(UInt64(number)), name: name, model: ModelID(1), scope: longest)
                return StateChange.sequence(
                    SequenceEntry(record: record, owner: longest, history: CutHistory(cuts)))
            }
            try await persist(changes, in: store)
        }
        let stored = try store.copy()(0).get()
        let byteCount = stored.pages * stored.pageByteCount / count * CoordinatorMachine.sequencesMax
        #expect(2 * byteCount <= CoordinatorStore.mapByteCountMax)
        store.close()
    }

    @Test("TRAPS 21, 22: another shape is refused with both layouts; the old one still opens")
    func otherShape() async throws {
        let path = directory.path("state")
        let store = try CoordinatorStore(directory: path, shape: try cluster(2))
        try await persist([.epoch(Epoch(3))], in: store)
        store.close()
        let error = try #require(throws: ServiceError.self) {
            _ = try CoordinatorStore(directory: path, shape: try cluster(4))
        }
        #expect(error.code == .storeRefused && error.message.contains("W=2") && error.message.contains("W=4"))
        let again = try CoordinatorStore(directory: path, shape: try cluster(2))
        #expect(again.initialState.epoch == Epoch(3))
        again.close()
    }

    /// Changes the superblock, or deletes it.
    private func setFormat(_ format: UInt32?, in path: String) throws {
        let environment = try Environment(
            directory: path, mapByteCountMax: 1 << 30, tablesMax: 4, durability: .always)
        defer { environment.close() }
        var transaction = try environment.beginSetup()
        let table = try transaction.openTable("directory")
        let (key, value) = StateCoding.superblock(format: format ?? 0)
        if format == nil {
            #expect(try transaction.delete(table, key))
        } else {
            try transaction.put(table, key, try #require(value))
        }
        try transaction.commit()
    }

    @Test("another format is refused with both numbers, a missing one with the supported number; nothing is written")
    func otherFormat() async throws {
        for format in [nil, StateCoding.format + 1, 77] as [UInt32?] {
            let path = directory.path("state-\(format ?? 0)")
            let store = try CoordinatorStore(directory: path, shape: try cluster())
            try await persist([.epoch(Epoch(3))], in: store)
            store.close()
            try setFormat(format, in: path)
            for _ in 0..<2 {
                let error = try #require(throws: ServiceError.self) {
                    _ = try CoordinatorStore(directory: path, shape: try cluster())
                }
                let read = error.message.firstMatch(of: /reads (?:format )?(\d+)/)
                #expect(error.code == .storeRefused && read?.1 == "\(StateCoding.format)")
                if let format { #expect(error.message.contains("format \(format)")) }
            }
        }
    }

    @Test("a second coordinator on the same directory is refused, and the first keeps running")
    func second() async throws {
        let path = directory.path("state")
        let store = try CoordinatorStore(directory: path, shape: try cluster())
        let error = try #require(throws: ServiceError.self) {
            _ = try CoordinatorStore(directory: path, shape: try cluster())
        }
        #expect(error.code == .storeRefused)
        try await persist([.epoch(Epoch(1))], in: store)
        store.close()
    }

    @Test("after the close nothing is persisted, and it says so")
    func closed() async throws {
        let store = try CoordinatorStore(directory: directory.path("state"), shape: try cluster())
        store.close()
        let error = await #expect(throws: ServiceError.self) { try await persist([.epoch(Epoch(1))], in: store) }
        #expect(error?.code == .shuttingDown)
    }
}
