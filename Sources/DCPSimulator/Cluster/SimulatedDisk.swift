// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPOracle
internal import DCPStore
internal import Foundation
internal import Glibc

/// The disk of one daemon: a real directory with a real LMDB environment, and what of it would survive a loss of power.
final class SimulatedDisk: @unchecked Sendable {
    let directory: String
    private let world: World
    /// The data file as it was when everything in it was last synced.
    private var synced: [UInt8] = []
    /// When that was.
    private(set) var syncTime: UInt64 = 0
    /// Writes are refused for want of room until then.
    private var fullUntil: UInt64 = 0
    /// No two free pages of the store lie side by side until then.
    private var scatteredUntil: UInt64 = 0
    /// Syncs fail until then.
    private var syncsFailUntil: UInt64 = 0
    /// A sync has failed: writes since the last successful one may never reach the disk, although their pages are
    /// marked clean.
    private(set) var hasLostWrites = false
    private static let pageByteCount = 4096
    /// Copies of synced states, oldest first.
    private var copies: [(time: UInt64, markMax: UInt64, bytes: [UInt8])] = []
    /// At most what the store on it has come to.
    var markMax: () -> UInt64 = { .max }
    /// How old a copy is at the least, and how far from the one before.
    private let copyAge: UInt64

    init(directory: String, world: World, copyAge: Duration = .seconds(5)) {
        self.directory = directory
        self.world = world
        self.copyAge = copyAge.nanoseconds
    }

    func fill(until time: UInt64) { fullUntil = max(fullUntil, time) }

    func scatter(until time: UInt64) { scatteredUntil = max(scatteredUntil, time) }

    func failSyncs(until time: UInt64) { syncsFailUntil = max(syncsFailUntil, time) }

    /// Nothing fails any more. What a sync has lost stays lost.
    func heal() { (fullUntil, scatteredUntil, syncsFailUntil) = (0, 0, 0) }

    var isFull: Bool { world.now < fullUntil }
    var isFailingSyncs: Bool { world.now < syncsFailUntil }

    /// What the disk does to the store of a daemon.
    var faults: StoreFaults {
        StoreFaults(
            sync: { [weak self] in self?.failSync() ?? 0 },
            write: { [weak self] in self?.isFull ?? false ? ENOSPC : 0 },
            runPagesMax: { [weak self] in
                guard let self else { return .max }
                return world.now < scatteredUntil ? 1 : .max
            })
    }

    private func failSync() -> Int32 {
        guard isFailingSyncs else { return 0 }
        hasLostWrites = true
        return EIO
    }

    private var dataPath: String { directory + "/data.mdb" }

    func sync() {
        guard !hasLostWrites else { return }
        synced = read()
        syncTime = world.now
        guard world.now >= (copies.last?.time ?? 0) + copyAge else { return }
        copies = copies.suffix(1) + [(world.now, markMax(), synced)]
    }

    /// Of a coordinator's state, as one number. Neither is beyond 32 bits in a simulation.
    static func place(_ epoch: Epoch, _ mark: DirectoryMark) -> UInt64 { epoch.value << 32 | mark.value }

    /// What it holds now.
    var contents: [UInt8] { read() }

    /// An earlier synced state; nil when there is none yet.
    /// - Parameter mark: what the store had come to since, if that matters.
    func olderContents(before mark: UInt64? = nil) -> [UInt8]? {
        copies.first { copy in copy.time + copyAge <= world.now && mark.map { copy.markMax < $0 } ?? true }?.bytes
    }

    /// The disk of another machine, or of another time, in the place of this one.
    func replace(with bytes: [UInt8]) {
        mkdir(directory, 0o700)
        write(bytes)
        synced = bytes
    }

    /// What a backup has of it, on a disk that nothing has happened to.
    func restore(_ bytes: [UInt8]) {
        heal()
        replace(with: bytes)
        (hasLostWrites, copies) = (false, [])
    }

    func remove() {
        try? FileManager.default.removeItem(atPath: directory)
        synced = []
    }

    private func read() -> [UInt8] {
        let file = open(dataPath, O_RDONLY | O_CLOEXEC)
        guard file >= 0 else { return [] }
        defer { close(file) }
        var status = stat()
        fstat(file, &status)
        let byteCount = Int(status.st_size)
        return [UInt8](unsafeUninitializedCapacity: byteCount) { bytes, count in
            count = max(pread(file, bytes.baseAddress, byteCount, 0), 0)
        }
    }

    private func write(_ bytes: [UInt8]) {
        let file = open(dataPath, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
        precondition(file >= 0, "cannot write \(dataPath)")
        let count = bytes.withUnsafeBytes { pwrite(file, $0.baseAddress, bytes.count, 0) }
        close(file)
        precondition(count == bytes.count, "short write to \(dataPath)")
    }

    /// The machine loses power; the environment is closed. What was not synced is lost, all of it or nothing: the
    /// simulated file system keeps the order of writes, as Storage.md asks of one (Durability). A transaction that was
    /// being written may have left torn pages behind the end of what was synced.
    func losePower(_ durability: Durability) {
        var survived = whatSurvives(durability)
        if survived.count >= 2 * Self.pageByteCount, world.chance(0.5) {
            for _ in 0..<world.draw(1...3) {
                survived += (0..<Self.pageByteCount).map { _ in UInt8(truncatingIfNeeded: world.random.next()) }
            }
        }
        keep(survived)
    }

    /// A store in which a sync had failed is opened again: its cached pages are dropped, and it is what the disk has.
    func dropCache(_ durability: Durability) { keep(whatSurvives(durability)) }

    /// What was last synced, or all that was written.
    private func whatSurvives(_ durability: Durability) -> [UInt8] {
        durability != .always && world.chance(0.5) ? read() : synced
    }

    private func keep(_ survived: [UInt8]) {
        write(survived)
        synced = survived
        hasLostWrites = false
    }

    /// Flips a bit of a sealed block. Returns false when there is none.
    func flipBit() -> Bool {
        damage { block in
            let place = world.draw(0...block.count - 1)
            world.trace.note("a bit flips at byte \(block.lowerBound + place) of \(dataPath)")
            return (place, [block.bytes[block.lowerBound + place] ^ (1 << UInt8(world.draw(0...7)))])
        }
    }

    /// A sector of a sealed block is left as it was before the block was written. Returns false when there is no block.
    func tearPage() -> Bool {
        damage { block in
            let sectorByteCount = 512
            let first = (block.lowerBound + sectorByteCount - 1) / sectorByteCount * sectorByteCount - block.lowerBound
            guard first < block.count else { return nil }
            let place = first + sectorByteCount * world.draw(0...(block.count - 1 - first) / sectorByteCount)
            let count = min(sectorByteCount, block.count - place)
            world.trace.note("a sector at byte \(block.lowerBound + place) of \(dataPath) is torn")
            return (place, (0..<count).map { _ in UInt8(truncatingIfNeeded: world.random.next()) })
        }
    }

    private struct Block {
        /// Its place in the file.
        var lowerBound: Int
        /// Header and payload.
        var bytes: ArraySlice<UInt8>
        var count: Int { bytes.count }
    }

    /// Changes a drawn block of the file, and of what survives a loss of power.
    /// - Parameter change: the place in the block and the bytes there.
    private func damage(_ change: (Block) -> (place: Int, bytes: [UInt8])?) -> Bool {
        let bytes = read()
        // A value of its own pages begins at byte 16 of the first.
        let blocks = stride(from: 16, to: bytes.count - 64, by: Self.pageByteCount).filter {
            bytes[$0] == 0x44 && bytes[$0 + 1] == 0x43 && bytes[$0 + 2] == 0x50 && bytes[$0 + 3] == 0x42
        }
        guard let start = blocks.randomElement(using: &world.random) else { return false }
        let payload = bytes.withUnsafeBytes { Int($0.loadUnaligned(fromByteOffset: start + 28, as: UInt32.self)) }
        // For a block in pieces, only the first piece, on one page: other data follow it. LMDB stores a value's number
        // of pages 4 bytes before it.
        let pages = bytes.withUnsafeBytes { Int($0.loadUnaligned(fromByteOffset: start - 4, as: UInt32.self)) }
        let end = start + min(48 + payload, pages * Self.pageByteCount - 16)
        guard end <= bytes.count,
            let (place, changed) = change(Block(lowerBound: start, bytes: bytes[start..<end]))
        else { return false }
        let file = open(dataPath, O_RDWR | O_CLOEXEC)
        guard file >= 0 else { return false }
        defer { close(file) }
        guard pwrite(file, changed, changed.count, off_t(start + place)) == changed.count else { return false }
        // Only this block: before the last sync something else may have been in its place.
        if end <= synced.count, synced[start..<end] == bytes[start..<end] {
            synced.replaceSubrange(start + place..<start + place + changed.count, with: changed)
        }
        return true
    }
}

/// The writer of one process's store, as events of the world.
final class DiskHost: WriterHost, @unchecked Sendable {
    private let disk: SimulatedDisk
    private let process: Process
    private let latencyMax: Duration

    init(_ disk: SimulatedDisk, _ process: Process, latencyMax: Duration) {
        self.disk = disk
        self.process = process
        self.latencyMax = latencyMax
    }

    func schedule(after delay: Duration, _ body: @escaping @Sendable () -> Void) {
        let latency = process.world.delay(.microseconds(10)...latencyMax) * process.slowness
        process.world.after(delay.nanoseconds + latency, process, "write", body)
    }

    func synced() { disk.sync() }
}
