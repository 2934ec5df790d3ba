// SPDX-License-Identifier: Apache-2.0

internal import DCPAttention
internal import DCPCache
internal import DCPConsole
internal import DCPCore
internal import DCPOracle
internal import DCPStore
internal import Foundation

/// The store of one rank with one sequence, as a rank's own code writes it: what is measured reads its mapped pages.
final class BenchmarkStore {
    let cache: ShardCache
    let model: ModelDescription
    let sequence: SequenceID
    private let directory: String
    private let isTemporary: Bool
    let modelID: ModelID
    private let chunkTokens = 512
    private(set) var length = 0

    /// - Parameters:
    ///   - directory: a new one's path, or that of a store which knows model and sequence.
    ///   - model: only layers, KV heads, dims and cache format matter.
    ///   - isTemporary: whether the directory goes with this object.
    init(
        directory: String, rank: RankIndex = RankIndex(0), cluster: ClusterShape? = nil, model: ModelDescription,
        modelID: ModelID = ModelID(1), sequence: SequenceID = SequenceID(1), durability: Durability = .never,
        isTemporary: Bool = true
    ) throws(ServiceError) {
        let cluster =
            if let cluster { cluster } else {
                try ClusterShape(ranks: 1, headGroups: 1, interleave: 1, blockTokens: 64, exchange: .allToAll)
            }
        self.directory = directory
        self.isTemporary = isTemporary
        self.model = model
        self.modelID = modelID
        self.sequence = sequence
        cache = try ShardCache.open(
            directory: directory, rank: rank, cluster: cluster,
            settings: ShardCache.Settings(durability: durability, uncommittedByteCountMax: 4 << 30))
        if cache.model(modelID) == nil {
            try waitFor { cache.putModel(id: modelID, name: "benchmark", description: model, completion: $0) }
        }
        if cache.state(of: sequence) == nil {
            try waitFor { cache.openSequence(id: sequence, model: modelID, completion: $0) }
        }
    }

    /// Bytes of K and V of this many of this rank's tokens in one layer.
    func byteCount(localTokens: Int) -> Int { localTokens * layout.keptByteCount }

    var layout: PanelLayout { PanelLayout(model[0], model.kvFormat, in: cache.cluster) }

    /// An upper estimate of the disk space of a store with this many tokens.
    static func diskByteCount(_ model: ModelDescription, tokens: Int) -> Int {
        tokens * model.keptByteCount / 8 * 9 + (64 << 20)
    }

    /// Appends up to a length and seals, while the writer thread writes what came before. Shows how far it is.
    func fill(upTo end: Int, _ pattern: RowPattern, _ interruption: Interruption) throws {
        let bar = ProgressBar(label: "fill", total: end)
        defer { bar.finish() }
        let chunk = KeyValueChunk(layout, tokens: chunkTokens, dataType: pattern.dataType)
        var pending: Waiting<Void>?
        var written = length
        while length < end {
            try interruption.check()
            let tokens = length..<min(length + chunkTokens, end)
            chunk.fill(tokens, pattern)
            for layer in 0..<model.layers {
                try cache.append(
                    sequence: sequence, layer: layer, position: Position(tokens.lowerBound),
                    rows: chunk.rows(tokens.count), tokens: 0..<tokens.count)
            }
            length = tokens.upperBound
            if length == end || length - written >= 16 * chunkTokens {
                try pending?.wait()
                let commit = Waiting<Void>()
                cache.commit([(sequence, Position(length))]) { commit.finish($0) }
                pending = commit
                written = length
            }
            bar.update(done: length)
        }
        try pending?.wait()
        ScratchDirectory.sync(dataPath)
    }

    var dataPath: String { directory + "/data.mdb" }

    /// The mapped blocks of the first tokens, for as long as the reader lives.
    func context(_ tokens: Int, layer: Int = 0) throws(ServiceError) -> ContextReader {
        try cache.context(sequence: sequence, layer: layer, length: Position(tokens))
    }

    deinit {
        cache.close()
        // Else it goes with the scratch directory.
        if isTemporary { try? FileManager.default.removeItem(atPath: directory) }
    }
}
