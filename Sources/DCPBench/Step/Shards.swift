// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPLocalCluster
internal import DCPOracle

/// The ranks' shards in their files, read by as many threads as all ranks have: what the steps of a token read, each step
/// its own layer.
final class Shards: Sendable {
    private let pages: StreamingRead
    private let team: Team
    private let layers: Int

    /// - Parameter tokens: that a step sees, before its own.
    init(_ local: LocalCluster, tokens: Int, _ model: ModelDescription, threads: Int, _ bench: Bench) throws {
        let partByteCount = 256 << 10
        let shape = try local.configuration.shape()
        var files: [MappedFile] = []
        var parts: [UnsafeRawPointer] = []
        for rank in shape.allRanks {
            let file = try MappedFile(local.directory.data(of: .rank(rank)) + "/data.mdb")
            let held = shape.layout.localLength(ofRank: shape.contextRank(of: rank), length: tokens)
            parts += file.parts(byteCount: max(held * model.keptByteCount, partByteCount), of: partByteCount)
            files.append(file)
        }
        layers = model.layers
        team = Team(threads: threads * shape.ranks)
        pages = StreamingRead(parts, payloadByteCount: partByteCount, owner: Owners(files))
        try pages.chooseWays(team, bench.interruption)
    }

    /// Reads all layers, so that none is in a cache for having been read just before.
    /// - Returns: seconds of one layer, for each way.
    func read() -> [Double] { pages.bodies(team).map { Stopwatch.seconds($0) / Double(layers) } }

    /// The faster way's durations, seconds, of what `read` returned each time.
    func fastest(_ times: [[Double]]) -> (seconds: Samples, detail: String) {
        let ways = times[0].indices.map { way in Samples(times.map { $0[way] }) }
        let (seconds, way) = pages.fastest(ways[...])
        let bytes = "\(pages.byteCount / layers) bytes" + (layers > 1 ? " of each of \(layers) layers" : "")
        return (seconds, "the ranks' data files, \(bytes), by \(team.threads) threads, \(way)")
    }

    private final class Owners: Sendable {
        let files: [MappedFile]
        init(_ files: [MappedFile]) { self.files = files }
    }
}
