// SPDX-License-Identifier: Apache-2.0

import DCPAttention
import DCPCache
import DCPClient
import DCPCore
import DCPLocalCluster
import DCPWire

/// Opens the stores of a cluster that has stopped, and compares every stored token with what was sent.
enum StoreCheck {
    /// - Parameter conversations: what the clients hold at the end: all there is.
    /// - Returns: tokens compared, over all ranks and layers.
    static func run(
        local: LocalCluster, shape: ClusterShape, stories: [Story], conversations: [Conversation]
    ) throws -> Int {
        var tokens = 0
        for rank in shape.allRanks {
            try verify(local.directory.data(of: .rank(rank)), rank)
            let cache = try ShardCache.open(
                directory: local.directory.data(of: .rank(rank)), rank: rank, cluster: shape)
            defer { cache.close() }
            let wanted = Dictionary(uniqueKeysWithValues: conversations.map { ($0.handle.record.id, $0) })
            let held = Set(cache.sequences.map(\.id))
            guard held == Set(wanted.keys) else {
                throw SoakFailure(
                    "\(rank) holds the sequences \(held.map(\.value).sorted()), open are "
                        + "\(wanted.keys.map(\.value).sorted())")
            }
            for state in cache.sequences {
                guard let conversation = wanted[state.id] else { continue }
                let story = stories[conversation.story]
                let length = Position(story.position(ofStep: conversation.committedSteps))
                guard state.committedLength == length else {
                    throw SoakFailure("\(state.id) has \(state.committedLength) tokens on \(rank), not \(length)")
                }
                for layer in 0..<story.shape.layers {
                    tokens += try compare(cache, state.id, story, layer: layer, length: length, shape, rank)
                }
            }
        }
        return tokens
    }

    /// As `dcpctl verify --store` does.
    private static func verify(_ directory: String, _ rank: RankIndex) throws {
        let verification = try StoreVerification.open(directory: directory)
        defer { verification.close() }
        var findings: [StoreFinding] = []
        while true {
            let batch = try verification.advance()
            findings += batch.findings
            if batch.isDone { break }
        }
        guard findings.isEmpty else {
            throw SoakFailure("The store of \(rank) has \(findings.count) findings: \(findings.prefix(5))")
        }
    }

    private static func compare(
        _ cache: ShardCache, _ sequence: SequenceID, _ story: Story, layer: Int, length: Position,
        _ shape: ClusterShape,
        _ rank: RankIndex
    ) throws -> Int {
        // Checks the checksum of every block and row on the way.
        let context = try cache.context(sequence: sequence, layer: layer, length: length)
        let heads = story.shape[layer].kvHeads / shape.headGroups
        let group = shape.headGroup(of: rank)
        var row = [UInt8](repeating: 0, count: context.layout.rowByteCount)
        for local in 0..<context.tokens {
            row.withUnsafeMutableBytes { bytes in
                guard let base = bytes.baseAddress else { return }
                context.layout.read(
                    token: local % context.layout.blockTokens,
                    of: context.blocks[local / context.layout.blockTokens], into: base)
            }
            let position = shape.layout.position(ofLocalIndex: local, rank: shape.contextRank(of: rank))
            guard row == story.storedRow(position, layer: layer, kvHeads: group * heads..<(group + 1) * heads) else {
                throw SoakFailure("\(sequence), layer \(layer), token \(position) on \(rank) is not what was sent")
            }
        }
        return context.tokens
    }
}
