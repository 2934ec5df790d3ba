// SPDX-License-Identifier: Apache-2.0

import DCPCache
import DCPCore
import DCPStore
import DCPTestKit
import Foundation
import Synchronization
import Testing

/// A small store of several block sizes, filled, emptied and read at random until its free pages lie in pieces.
@Suite("random pieces")
struct RandomPiecesTests {
    /// Runs; `DCP_PIECES_RUNS` replaces it.
    private static let runs = ProcessInfo.processInfo.environment["DCP_PIECES_RUNS"].flatMap { Int($0) } ?? 4

    @Test("no token is lost or mixed, and a store below its low watermark takes tokens", arguments: 0..<runs)
    func operations(_ variant: Int) throws {
        var generator = SeededGenerator("pieces \(variant)")
        generator = SeededGenerator(generator, variant)
        let run = try PiecesRun(&generator)
        let readers = ShortReaders(run)
        for step in 0..<160 {
            try run.operate(&generator)
            guard step % 20 == 19 else { continue }
            try readers.pausing { try run.takesTokens(&generator) }
            #expect(try run.store.holdsAll(), "DCP_SEED=\(SeededGenerator.seed)")
        }
        readers.stop()
        #expect(run.mixed.withLock { $0 } == [])
        try run.store.reopen()
        #expect(try run.store.holdsAll())
        try run.takesTokens(&generator)
        for _ in 0..<6 { try run.store.rig.settle() }
        #expect(try Verdict(run.store.cache.verification()).findings == [])
        #expect(try run.store.rig.verifyStopped().findings == [])
        print(
            "pieces \(variant): DCP_SEED=\(SeededGenerator.seed), blocks of \(run.pages) pages, \(run.checks) checks, \(run.stuck) "
                + "stuck, \(run.refused) refused, at most \(run.piecedMax) in pieces, \(readers.count.withLock { $0 }) reads"
        )
        #expect(run.stuck == 0 && run.checks > 0, "DCP_SEED=\(SeededGenerator.seed)")
    }
}

/// @unchecked Sendable: the readers' thread uses `store.cache`, whose methods any thread may call, and the mutexes.
private final class PiecesRun: @unchecked Sendable {
    let store: MixedStore
    let pages: [Int]
    /// What other threads may read: of each sequence its model and its committed tags.
    let published = Mutex<[UInt64: (model: Int, tags: [UInt32])]>([:])
    let mixed = Mutex<[String]>([])
    private(set) var (refused, checks, stuck, piecedMax) = (0, 0, 0, 0)

    init(_ generator: inout SeededGenerator) throws {
        // Small ones make the holes that large ones do not fit.
        func shape(_ heads: [Int], _ dims: [Int]) -> (layers: Int, heads: Int, dim: Int) {
            (
                Int.random(in: 1...2, using: &generator), heads.randomElement(using: &generator) ?? 1,
                dims.randomElement(using: &generator) ?? 16
            )
        }
        var shapes = [shape([1, 2, 3], [16]), shape([5, 8, 16], [32, 64])]
        if Bool.random(using: &generator) { shapes.append(shape([1, 2, 3, 5, 8], [16, 32, 64])) }
        store = try MixedStore(diskByteCountMax: Int.random(in: 5...8, using: &generator) << 20, shapes)
        pages = store.shapes.indices.map(store.blockPages)
        try fill(&generator)
    }

    /// By turns, and mostly with small blocks.
    private func fill(_ generator: inout SeededGenerator) throws {
        var ids: [UInt64] = []
        for index in 0..<6 { ids.append(try store.open(index == 0 ? 1 : 0)) }
        while store.cache.refusal == nil {
            for id in ids where Int.random(in: 0..<3, using: &generator) > 0 {
                try store.append(id, store.sequences[id]?.model == 0 ? 16 : 1)
            }
            if try attempt({ try store.commit(ids) }) == nil { break }
        }
        ids.forEach(publish)
    }

    private func publish(_ id: UInt64) {
        let reference = store.sequences[id]
        published.withLock { $0[id] = reference.map { ($0.model, $0.committedTags) } }
    }

    /// - Returns: nil when the store is full.
    private func attempt<Value>(_ body: () throws -> Value) throws -> Value? {
        do {
            return try body()
        } catch let error as ServiceError where error.code == .storeFull {
            refused += 1
            return nil
        }
    }

    private func grow(_ ids: [UInt64], _ generator: inout SeededGenerator) throws {
        for id in ids where (store.sequences[id]?.tags.count ?? 0) - (store.sequences[id]?.committed ?? 0) < 64 {
            try store.append(id, Int.random(in: 1...24, using: &generator))
        }
        if try attempt({ try store.commit(ids) }) != nil { ids.forEach(publish) }
        piecedMax = max(piecedMax, try store.piecedBlocks)
    }

    func operate(_ generator: inout SeededGenerator) throws {
        let ids = store.sequences.keys.sorted()
        guard let id = ids.randomElement(using: &generator), let reference = store.sequences[id], ids.count >= 3 else {
            if let id = try attempt({ try store.open(Int.random(in: 0..<pages.count, using: &generator)) }) {
                publish(id)
            }
            return
        }
        switch Int.random(in: 0..<100, using: &generator) {
        case ..<8:
            guard ids.count < 14 else { return }
            let model = Int.random(in: 0..<pages.count, using: &generator)
            if let id = try attempt({ try store.open(model) }) { publish(id) }
        case ..<64:
            // Several by turns, so that their blocks lie between each other's.
            let others = Set((0..<3).compactMap { _ in ids.randomElement(using: &generator) } + [id]).sorted()
            for _ in 0..<Int.random(in: 1...6, using: &generator) {
                if Bool.random(using: &generator) {
                    try grow(others, &generator)
                } else {
                    for other in others { try grow([other], &generator) }
                }
            }
        case ..<72:
            let length = Int.random(in: 0...reference.committed, using: &generator)
            if let child = try attempt({ try store.fork(id, length) }) { publish(child) }
        case ..<84:
            let length = Int.random(in: 0...reference.committed, using: &generator)
            published.withLock { $0[id] = (reference.model, Array(reference.tags[..<length])) }
            _ = try attempt { try store.truncate(id, length) }
            publish(id)
        default:
            published.withLock { $0[id] = nil }
            _ = try attempt { try store.close(id) }
            publish(id)
        }
    }

    /// Closes sequences until the store holds less than the low watermark. Then it takes a block of every model, at once.
    func takesTokens(_ generator: inout SeededGenerator) throws {
        for id in store.sequences.keys.sorted().shuffled(using: &generator)
        where store.cache.health.usedByteCount >= store.lowByteCount {
            published.withLock { $0[id] = nil }
            try store.close(id)
            try store.rig.settle()
        }
        for model in pages.indices where store.cache.health.usedByteCount < store.lowByteCount {
            checks += 1
            do {
                let id = try store.open(model)
                for count in [1, 15] {
                    guard store.cache.health.usedByteCount < store.lowByteCount else { break }
                    try store.append(id, count)
                    try store.commit([id])
                }
                piecedMax = max(piecedMax, try store.piecedBlocks)
                publish(id)
            } catch let error as ServiceError where error.code == .storeFull {
                stuck += 1
                print(
                    "stuck with \(store.cache.health.usedByteCount) of \(store.cache.health.capacityByteCount) bytes, \(pages) "
                        + "pages a block: \(error)")
            }
        }
    }
}

/// Reads committed contexts all the time, beside the writer, each for a moment.
private final class ShortReaders: Sendable {
    private let isStopped = Atomic(false)
    private let ended = DispatchSemaphore(value: 0)
    /// Held while one reads.
    private let turn = Mutex(())
    let count = Mutex(0)

    init(_ run: PiecesRun) {
        Thread.detachNewThread { [self] in
            while !isStopped.load(ordering: .relaxed) { turn.withLock { _ in read(run) } }
            ended.signal()
        }
    }

    private func read(_ run: PiecesRun) {
        guard let (id, content) = run.published.withLock({ $0.randomElement() }).map({ ($0.key, $0.value) }) else {
            return
        }
        let layer = Int.random(in: 0..<run.store.shapes[content.model].layers)
        do {
            let context = try run.store.cache.context(
                sequence: SequenceID(id), layer: layer, length: Position(content.tags.count))
            if !run.store.matches(context, content.tags, model: content.model, layer: layer) {
                run.mixed.withLock { $0.append("\(id).\(layer) of \(content.tags.count)") }
            }
            count.withLock { $0 += 1 }
        } catch  where error.code == .storeDamaged {
            run.mixed.withLock { $0.append("\(error)") }
        } catch {
            // Closed or cut since it was published.
        }
    }

    /// Runs a body while no reader is active.
    func pausing(_ body: () throws -> Void) rethrows { try turn.withLock { _ in try body() } }

    func stop() {
        isStopped.store(true, ordering: .relaxed)
        ended.wait()
    }
}
