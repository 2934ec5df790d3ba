// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPLocalCluster
internal import DCPOracle

/// The ranks' shards in their files, read by as many threads as all ranks have.
final class Shards: Sendable {
    private let pages: StreamingRead
    private let team: Team

    init(_ local: LocalCluster, _ context: StepContext, _ model: ModelDescription, threads: Int, _ bench: Bench) throws
    {
        let partByteCount = 256 << 10
        let shape = try local.configuration.shape()
        var files: [MappedFile] = []
        var parts: [UnsafeRawPointer] = []
        for rank in shape.allRanks {
            let file = try MappedFile(local.directory.data(of: .rank(rank)) + "/data.mdb")
            let tokens = shape.layout.localLength(ofRank: shape.contextRank(of: rank), length: context.tokens)
            parts += file.parts(byteCount: max(tokens * model.keptByteCount, partByteCount), of: partByteCount)
            files.append(file)
        }
        team = Team(threads: threads * shape.ranks)
        pages = StreamingRead(parts, payloadByteCount: partByteCount, owner: Owners(files))
        try pages.chooseWays(team, bench.interruption)
    }

    /// - Returns: seconds, for each way.
    func read() -> [Double] { pages.bodies(team).map { Stopwatch.seconds($0) } }

    /// The faster way's durations, seconds, of what `read` returned each time.
    func fastest(_ times: [[Double]]) -> (seconds: Samples, detail: String) {
        let ways = times[0].indices.map { way in Samples(times.map { $0[way] }) }
        let (seconds, way) = pages.fastest(ways[...])
        return (seconds, "the ranks' data files, \(pages.byteCount) bytes, by \(team.threads) threads, \(way)")
    }

    private final class Owners: Sendable {
        let files: [MappedFile]
        init(_ files: [MappedFile]) { self.files = files }
    }
}
