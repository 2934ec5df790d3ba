// SPDX-License-Identifier: Apache-2.0

import DCPAttention
import DCPCache
import DCPCore
import DCPStore
import Foundation

// A process for the tests to kill, and to lock a store with.
//
//   cache-crasher hold DIRECTORY            opens the store, prints "ready", waits for the end of standard input
//   cache-crasher write DIRECTORY           appends and commits for ever, prints each committed length
//   cache-crasher read DIRECTORY            holds a reader over what is committed, prints "ready", and waits likewise
//   cache-crasher fault DIRECTORY           truncates the data file under its map and reads what is committed
//   cache-crasher verify DIRECTORY LENGTH   exits 0 when at least LENGTH tokens are there, every byte and id is right, and
//                                           a match finds them
//
// Exit codes: 0 as said, 1 the check failed or the store refused, 2 wrong use.

let layers = 2
let sequence = SequenceID(1)

func report(_ text: String) { FileHandle.standardOutput.write(Data((text + "\n").utf8)) }

func wait(_ start: (@escaping CacheCompletion) -> Void) throws {
    let done = DispatchSemaphore(value: 0)
    let outcome = Outcome()
    start { result in
        outcome.result = result
        done.signal()
    }
    done.wait()
    try outcome.result?.get()
}

/// @unchecked Sendable: written before the semaphore is signalled, read after it.
final class Outcome: @unchecked Sendable { var result: Result<Void, ServiceError>? }

/// The row of a token: numbers that Float32 holds exactly, different for each token and layer.
func row(position: Int, layer: Int, count: Int) -> [Float] {
    (0..<count).map { Float(position * 8 + layer * 4 + $0 % 3) }
}

func tokenID(_ position: Int) -> UInt32 { UInt32(truncatingIfNeeded: position &* 2_654_435_761) }

func open(_ directory: String) throws -> ShardCache {
    let cluster = try ClusterShape(ranks: 1, headGroups: 1, interleave: 1, blockTokens: 16, exchange: .allToAll)
    let cache = try ShardCache.open(
        directory: directory, rank: RankIndex(0), cluster: cluster,
        settings: ShardCache.Settings(mapByteCountMax: 1 << 32))
    let shape = try ModelDescription(
        layers: layers, queryHeads: 1, kvHeads: 1, keyDim: 8, valueDim: 8, scale: 1, softcap: nil,
        kvFormat: .float32)
    try wait { cache.putModel(id: ModelID(1), name: "crash", description: shape, completion: $0) }
    try wait { cache.openSequence(id: sequence, model: ModelID(1), completion: $0) }
    return cache
}

func write(_ cache: ShardCache) throws {
    var position = cache.state(of: sequence)?.committedLength.value ?? 0
    while true {
        let count = 1 + position % 7
        for layer in 0..<layers {
            for token in position..<position + count {
                let numbers = row(position: token, layer: layer, count: 16)
                try numbers.withUnsafeBytes { bytes in
                    guard let base = bytes.baseAddress else { return }
                    let rows = KeyValueRows(dataType: .float32, keys: base, values: base + 32, tokens: 1)
                    try cache.append(
                        sequence: sequence, layer: layer, position: Position(token), rows: rows, tokens: 0..<1)
                }
            }
        }
        let tokens = TokenIDs(start: position, ids: (position..<position + count).map(tokenID))
        position += count
        try wait {
            cache.commit(
                [
                    CommitPart(
                        sequence, length: Position(position), tokens: tokens, annotation: Array("\(position)".utf8))
                ], completion: $0)
        }
        report("\(position)")
        // Now and then back into a sealed block, so that deletions are killed too.
        if position % 97 < 7, position > 64 {
            position -= 40
            // Announced before, since it may be durable before it is reported.
            report("\(position)")
            try wait { cache.truncate(sequence, length: Position(position), completion: $0) }
        }
    }
}

func verify(_ cache: ShardCache, _ acknowledged: Int) throws -> Bool {
    guard let length = cache.state(of: sequence)?.committedLength.value, length >= acknowledged else { return false }
    for layer in 0..<layers {
        let context = try cache.context(sequence: sequence, layer: layer, length: Position(length))
        var found = [Float](repeating: 0, count: 16)
        for token in 0..<context.tokens {
            found.withUnsafeMutableBytes { bytes in
                guard let base = bytes.baseAddress else { return }
                context.layout.read(token: token % 16, of: context.blocks[token / 16], into: base)
            }
            guard found == row(position: token, layer: layer, count: 16) else { return false }
        }
    }
    let ids = (0..<length).map(tokenID)
    guard try cache.tokenIDs(of: sequence, Range<Position>(0..<length)) == ids, length > 0 else { return length == 0 }
    // A cut drops it, and the next commit brings another.
    if let annotation = try cache.annotation(of: sequence), annotation != Array("\(length)".utf8) { return false }
    let match = try cache.match(model: ModelID(1), scope: "", ids: ids + [0])
    return match?.sequence == sequence && match?.length == Position(length)
}

let arguments = CommandLine.arguments
guard arguments.count >= 3 else { exit(2) }
do {
    let cache = try open(arguments[2])
    switch arguments[1] {
    case "hold":
        report("ready")
        _ = FileHandle.standardInput.readDataToEndOfFile()
    case "write":
        try write(cache)
    case "read":
        let length = cache.state(of: sequence)?.committedLength ?? Position(0)
        let reader = try cache.context(sequence: sequence, layer: 0, length: length)
        report("ready")
        _ = FileHandle.standardInput.readDataToEndOfFile()
        withExtendedLifetime(reader) {}
    case "fault":
        MapFaults.report(prefix: "<2>")
        guard truncate(arguments[2] + "/data.mdb", 16384) == 0 else { exit(1) }
        _ = try verify(cache, 0)
    case "verify":
        guard arguments.count == 4, let length = Int(arguments[3]) else { exit(2) }
        guard try verify(cache, length) else { exit(1) }
    default:
        exit(2)
    }
    cache.close()
} catch {
    FileHandle.standardError.write(Data("\(error)\n".utf8))
    exit(1)
}
