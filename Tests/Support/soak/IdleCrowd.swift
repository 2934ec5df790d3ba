// SPDX-License-Identifier: Apache-2.0

import DCPClient
import DCPCore
import DCPWire

/// Sequences that nobody touches while the cluster is disturbed: one in ten is written, the others are its forks.
enum IdleCrowd {
    private static let forks = 9
    private static let parents = 64

    /// Opens, writes and commits them.
    static func open(
        _ count: Int, playing stories: [Story], model name: String, on cluster: Cluster
    ) async throws -> [Conversation] {
        _ = try await cluster.registerModel(name, stories[0].shape)
        var conversations: [Conversation] = []
        while conversations.count < count {
            let (number, story) = (conversations.count, conversations.count % stories.count)
            func opened(_ names: [String]) async throws -> [SequenceHandle] {
                try await cluster.openSequences(names, model: name).map { try $0.get() }
            }
            let written = try await opened((0..<parents).map { "idle-\(number)-\($0)" })
            try await write(written, stories[story], on: cluster)
            var handles = written
            for parent in written {
                let names = (1...forks).map {
                    (name: "\(parent.record.name)-\($0)", length: stories[story].position(ofStep: 1))
                }
                for fork in try await cluster.fork(parent, as: names) { _ = try fork.get() }
                handles += try await opened(names.map(\.name))
            }
            conversations += handles.map { Conversation(handle: $0, story: story, committedSteps: 1, period: 0) }
        }
        return conversations
    }

    /// The first step of a story for each.
    private static func write(_ sequences: [SequenceHandle], _ story: Story, on cluster: Cluster) async throws {
        let tokens = story.position(ofStep: 1)
        for layer in 0..<story.shape.layers {
            let rows = story.rows(0, layer: layer, copies: sequences.count)
            try await cluster.append(
                layer: layer, sequences.map { $0.entry(position: 0, count: tokens) }, model: sequences[0].model,
                keys: rows.keys, values: rows.values)
        }
        try await cluster.commit(sequences.map { SequenceLength(sequence: $0.record.id, length: tokens) })
    }
}
