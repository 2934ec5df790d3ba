// SPDX-License-Identifier: Apache-2.0

import DCPStore
import DCPTestKit
import Foundation
import Glibc
import Synchronization

/// A disk that fails on request, and remembers what a loss of power would leave.
final class FaultyDisk: Sendable {
    private let syncError = Atomic<Int32>(0)
    private let writeError = Atomic<Int32>(0)
    private let copies = Mutex<[Data]>([])
    private let synced = DispatchSemaphore(value: 0)

    /// A store on a disk that works until it is told to fail.
    static func under(_ durability: Durability) throws -> (FaultyDisk, Bench) {
        let (disk, bench) = (FaultyDisk(), try Bench(durability: durability))
        bench.environment.inject(disk.faults)
        return (disk, bench)
    }

    func failSyncs(_ code: Int32) { syncError.store(code, ordering: .sequentiallyConsistent) }
    func failWrites(_ code: Int32) { writeError.store(code, ordering: .sequentiallyConsistent) }

    var faults: StoreFaults {
        StoreFaults(
            sync: { self.syncError.load(ordering: .sequentiallyConsistent) },
            write: { self.writeError.load(ordering: .sequentiallyConsistent) },
            synced: { path in
                let copy = (try? Data(contentsOf: URL(fileURLWithPath: path))) ?? Data()
                self.copies.withLock { $0.append(copy) }
                self.synced.signal()
            })
    }

    /// Waits for the next sync.
    func waitForSync() { synced.wait() }
    var syncs: Int { copies.withLock { $0.count } }
    var lastCopy: Data? { copies.withLock { $0.last } }

    /// The store as a loss of power at this moment leaves it, in a new directory.
    func afterPowerLoss() throws -> TemporaryDirectory {
        let directory = TemporaryDirectory()
        try FileManager.default.createDirectory(atPath: directory.path("store"), withIntermediateDirectories: true)
        try (lastCopy ?? Data()).write(to: URL(fileURLWithPath: directory.path("store/data.mdb")))
        return directory
    }
}

/// Conditions as they are reported, in order.
final class Conditions: Sendable {
    private let told = Mutex<[StoreHealth]>([])
    private let arrived = DispatchSemaphore(value: 0)

    func note(_ health: StoreHealth) {
        told.withLock { $0.append(health) }
        arrived.signal()
    }

    func next() -> StoreHealth {
        arrived.wait()
        return told.withLock { $0.removeFirst() }
    }
}

/// One job's outcome.
final class Outcome: Sendable {
    private let result = Mutex<Result<Void, any Error>?>(nil)
    private let arrived = DispatchSemaphore(value: 0)

    var finish: @Sendable (Result<Void, any Error>) -> Void {
        { result in
            self.result.withLock { $0 = result }
            self.arrived.signal()
        }
    }

    func wait() throws {
        arrived.wait()
        try result.withLock { $0 }?.get()
    }
}

extension Bench {
    func put(_ key: String, byteCount: Int = 3) throws {
        let done = Outcome()
        let table = table
        writer.submit(
            WriteJob(
                body: { try $0.put(table, Array(key.utf8), [UInt8](repeating: 1, count: byteCount)) },
                completion: done.finish))
        try done.wait()
    }

    func delete(_ key: String) throws {
        let done = Outcome()
        let table = table
        writer.submit(
            WriteJob(isFreeing: true, body: { try $0.delete(table, Array(key.utf8)) }, completion: done.finish))
        try done.wait()
    }
}

/// The error that a body must throw.
func refusal(_ body: () throws -> Void) throws -> StoreError {
    do { try body() } catch let error as StoreError { return error }
    throw Refused()
}
