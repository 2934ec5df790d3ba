// SPDX-License-Identifier: Apache-2.0

import DCPAttention
import DCPCache
public import DCPCore
import DCPStore
import DCPTestKit
import Foundation
import Testing

/// One rank's cache in a separate directory, and the operations that tests use.
final class Rig {
    let directory = TemporaryDirectory()
    let storePath: String
    let rank: RankIndex
    let cluster: ClusterShape
    let shape: ModelDescription
    var settings: ShardCache.Settings
    private(set) var cache: ShardCache

    static let model = ModelID(7)

    init(
        rank: UInt16 = 0, ranks: Int = 1, headGroups: Int = 1, interleave: Int = 1, blockTokens: Int = 16,
        layers: Int = 2, format: CacheFormat = .float32, kvHeads: Int = 2, dims: (Int, Int) = (8, 10),
        settings: ShardCache.Settings = ShardCache.Settings(mapByteCountMax: 1 << 30, durability: .never),
        path: String? = nil
    ) throws {
        storePath = path ?? directory.path("store")
        let dims = format.hasScales ? (dims.0, (dims.1 + 3) / 4 * 4) : dims
        self.rank = RankIndex(rank)
        cluster = try ClusterShape(
            ranks: ranks, headGroups: headGroups, interleave: interleave, blockTokens: blockTokens, exchange: .allToAll)
        shape = try ModelDescription(
            layers: layers, queryHeads: kvHeads * 2, kvHeads: kvHeads, keyDim: dims.0, valueDim: dims.1, scale: 1,
            softcap: nil, kvFormat: format)
        self.settings = settings
        cache = try ShardCache.open(
            directory: storePath, rank: self.rank, cluster: cluster, settings: settings)
        try finish { cache.putModel(id: Self.model, name: "test", description: shape, completion: $0) }
    }

    var dataPath: String { storePath + "/data.mdb" }

    func reopen() throws {
        cache.close()
        cache = try ShardCache.open(directory: storePath, rank: rank, cluster: cluster, settings: settings)
    }

    /// Closes, changes the data file, opens again.
    func edit(_ change: (inout Data) throws -> Void) throws {
        cache.close()
        let url = URL(fileURLWithPath: dataPath)
        var data = try Data(contentsOf: url)
        try change(&data)
        try data.write(to: url)
        cache = try ShardCache.open(directory: storePath, rank: rank, cluster: cluster, settings: settings)
    }

    // MARK: Operations, awaited

    func open(_ id: UInt64) throws {
        try finish { cache.openSequence(id: SequenceID(id), model: Self.model, completion: $0) }
    }

    func commit(_ id: UInt64, _ length: Int) throws {
        try finish { cache.commit([(SequenceID(id), Position(length))], completion: $0) }
    }

    func truncate(_ id: UInt64, _ length: Int) throws {
        try finish { cache.truncate(SequenceID(id), length: Position(length), completion: $0) }
    }

    func fork(_ parent: UInt64, _ child: UInt64, _ length: Int) throws {
        try finish {
            cache.fork(parent: SequenceID(parent), child: SequenceID(child), length: Position(length), completion: $0)
        }
    }

    func close(_ id: UInt64) throws { try finish { cache.close(SequenceID(id), completion: $0) } }

    func state(_ id: UInt64) throws -> SequenceState {
        let state = try #require(cache.state(of: SequenceID(id)))
        // What steps ask for, without the rest of it.
        for (layer, length) in state.layerLengths.enumerated() {
            let found = cache.layer(layer, of: state.id)
            #expect(found?.model == state.model && found?.length == length)
        }
        let longest = state.layerLengths.max() ?? 0
        #expect(!cache.hasLayer(of: state.id, beyond: longest))
        #expect(cache.hasLayer(of: state.id, beyond: longest.advanced(by: -1)))
        #expect(cache.layer(state.layerLengths.count, of: state.id)?.length == 0)
        return state
    }

    /// Keeps the writer in a completion until the returned semaphore is signalled: jobs submitted meanwhile share
    /// transactions where possible.
    func hold() -> DispatchSemaphore {
        let (entered, gate) = (DispatchSemaphore(value: 0), DispatchSemaphore(value: 0))
        cache.removeModel(ModelID(999)) { _ in
            entered.signal()
            gate.wait()
        }
        entered.wait()
        return gate
    }

    /// Waits until the writer has done all that it was given, sweeps included.
    func settle() throws {
        for _ in 0..<3 { try finish { cache.removeModel(ModelID(999), completion: $0) } }
    }

    // MARK: Data

    /// Appends tokens, named by tags, as part of a longer step, so that offsets matter.
    func append(_ id: UInt64, layer: Int, at position: Int, _ tags: [UInt32], type: DataType = .float32) throws {
        let step = StepRows(tags: [0xFFFF] + tags + [0xFFFE], layer: layer, shape: shape, cluster: cluster)
        try step.withRows { rows in
            try cache.append(
                sequence: SequenceID(id), layer: layer, position: Position(position), rows: rows,
                tokens: 1..<1 + tags.count)
        }
    }

    /// The data file between two transactions, as a SIGKILL leaves it. A copy that is made while the writer sweeps or trims
    /// would be torn.
    func quietData() throws -> Data {
        try settleSpills()
        let url = URL(fileURLWithPath: dataPath)
        var data = try Data(contentsOf: url)
        while true {
            let again = try Data(contentsOf: url)
            if again == data { return data }
            data = again
        }
    }

    /// As a rank does it: waits while blocks are spilled.
    func appendWhenRoom(_ id: UInt64, layer: Int, at position: Int, _ tags: [UInt32]) throws {
        let step = StepRows(tags: tags, layer: layer, shape: shape, cluster: cluster)
        while true {
            let hasRoom = try step.withRows { rows in
                try cache.appendIfRoom(
                    sequence: SequenceID(id), layer: layer, position: Position(position), rows: rows,
                    tokens: 0..<tags.count)
            }
            if hasRoom { return }
            try finish { done in cache.whenRoom { done($0.map { .failure($0) } ?? .success(())) } }
        }
    }

    /// Waits until nothing is spilled any more, or until it cannot be.
    func settleSpills() throws {
        repeat { try settle() } while cache.isSpilling
    }

    func appendAll(_ id: UInt64, at position: Int, _ tags: [UInt32]) throws {
        for layer in 0..<shape.layers { try append(id, layer: layer, at: position, tags) }
    }

    /// Whether the tokens of this rank among `tags`, all of the sequence's first, come back byte by byte.
    func holds(_ id: UInt64, _ tags: [UInt32], layers: [Int]? = nil) throws -> Bool {
        for layer in layers ?? Array(0..<shape.layers) {
            let context = try cache.context(sequence: SequenceID(id), layer: layer, length: Position(tags.count))
            guard matches(context, tags, layer: layer) else { return false }
        }
        return true
    }

    func matches(_ context: ContextReader, _ tags: [UInt32], layer: Int) -> Bool {
        let layout = cluster.layout
        let contextRank = cluster.contextRank(of: rank)
        guard context.tokens == layout.localLength(ofRank: contextRank, length: tags.count),
            context.blocks.count == (context.tokens + layout.blockTokens - 1) / layout.blockTokens
        else { return false }
        return (0..<context.tokens).allSatisfy { index in
            row(index, of: context)
                == stored(tags[layout.position(ofLocalIndex: index, rank: contextRank)], layer: layer)
        }
    }

    /// A token of a reader as it is stored.
    func row(_ index: Int, of context: ContextReader) -> [UInt8] {
        let (block, offset) = cluster.layout.block(ofLocalIndex: index)
        var row = [UInt8](repeating: 0, count: context.layout.rowByteCount)
        row.withUnsafeMutableBytes { bytes in
            guard let base = bytes.baseAddress else { return }
            context.layout.read(token: offset, of: context.blocks[block], into: base)
        }
        return row
    }

    func stored(_ tag: UInt32, layer: Int = 0) -> [UInt8] {
        StepRows.stored(tag: tag, layer: layer, shape: shape, cluster: cluster)
    }

    deinit { cache.close() }
}

/// Rows whose numbers follow from a tag: integers up to 250, which every dtype of rows holds exactly.
struct StepRows {
    private var keys: [Float] = []
    private var values: [Float] = []
    private let count: Int

    init(tags: [UInt32], layer: Int, shape: ModelDescription, cluster: ClusterShape) {
        count = tags.count
        for head in 0..<shape.kvHeads / cluster.headGroups {
            for tag in tags {
                keys += Self.numbers(tag, layer, head, 0, shape.keyDim)
                values += Self.numbers(tag, layer, head, 1, shape.valueDim)
            }
        }
    }

    static func numbers(_ tag: UInt32, _ layer: Int, _ head: Int, _ part: Int, _ count: Int) -> [Float] {
        (0..<count).map { dim in
            let mixed = (Int(tag) &+ 1) &* 7919 &+ layer &* 104_729 &+ head &* 1299 &+ part &* 577 &+ dim &* 31
            return Float((mixed ^ (mixed >> 9)) % 251)
        }
    }

    /// The bytes `PanelLayout.read` must give for a token.
    static func stored(tag: UInt32, layer: Int, shape: ModelDescription, cluster: ClusterShape) -> [UInt8] {
        let heads = 0..<shape.kvHeads / cluster.headGroups
        let numbers =
            Rounding.kept(
                heads.flatMap { Self.numbers(tag, layer, $0, 0, shape.keyDim) }, dim: shape.keyDim, areKeys: true,
                shape.kvFormat)
            + Rounding.kept(
                heads.flatMap { Self.numbers(tag, layer, $0, 1, shape.valueDim) }, dim: shape.valueDim, areKeys: false,
                shape.kvFormat)
        return Rounding.bytes(numbers, as: shape.kvFormat.rowType)
    }

    func withRows<Result>(_ body: (KeyValueRows) throws -> Result) throws -> Result {
        try keys.withUnsafeBytes { keys in
            try values.withUnsafeBytes { values in
                try body(
                    KeyValueRows(
                        dataType: .float32, keys: #require(keys.baseAddress), values: #require(values.baseAddress),
                        tokens: count))
            }
        }
    }
}

/// Waits for an operation.
func finish(_ start: (@escaping CacheCompletion) -> Void) throws {
    let pending = Pending()
    start { pending.finish($0) }
    try pending.wait()
}

/// An operation in progress.
///
/// @unchecked Sendable: `result` is written before the semaphore is signalled and read after it.
final class Pending: @unchecked Sendable {
    private let done = DispatchSemaphore(value: 0)
    private var result: Result<Void, ServiceError>?

    func finish(_ result: Result<Void, ServiceError>) {
        self.result = result
        done.signal()
    }

    func wait() throws {
        done.wait()
        try result?.get()
    }
}

/// Fails the test unless `body` throws a service error of a code whose message has all the words.
func expect(
    _ code: ServiceError.Code, _ words: String..., sourceLocation: SourceLocation = #_sourceLocation,
    _ body: () throws -> Void
) {
    do {
        try body()
        Issue.record("nothing was thrown; expected \(code)", sourceLocation: sourceLocation)
    } catch let error as ServiceError {
        #expect(error.code == code, "\(error)", sourceLocation: sourceLocation)
        for word in words {
            #expect(error.message.contains(word), "no \(word) in: \(error)", sourceLocation: sourceLocation)
        }
    } catch {
        Issue.record("\(error)", sourceLocation: sourceLocation)
    }
}

/// For tests alone: in the sources a number says that it is a position.
extension Position: ExpressibleByIntegerLiteral {
    public init(integerLiteral value: Int) { self.init(value) }
}

extension SeededGenerator {
    init(_ name: String) {
        self.init(seed: Self.seed)
        print("\(name): DCP_SEED=\(Self.seed)")
    }
}

extension Rig {
    /// Rows read back into as many bytes as the cache says.
    func rows(
        of id: SequenceID, layer: Int, _ positions: Range<Position>, goesOn: () -> Void = {}
    ) throws -> (stored: StoredRows, bytes: [UInt8]) {
        let byteCount = try cache.rowsByteCount(sequence: id, layer: layer, positions: positions)
        var bytes = [UInt8](repeating: 0xA5, count: byteCount)
        let stored = try bytes.withUnsafeMutableBytes {
            try cache.rows(sequence: id, layer: layer, positions: positions, into: $0, goesOn: goesOn)
        }
        return (stored, bytes)
    }
}
