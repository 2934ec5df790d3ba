// SPDX-License-Identifier: Apache-2.0

import DCPClient
import DCPCore
import DCPTestKit

extension ModelDescription {
    /// Three kinds of layers with dimensions of their own: a window and sinks; latent, where the format keeps that; all
    /// tokens.
    static func ofSoak(_ kvFormat: CacheFormat) throws(ServiceError) -> ModelDescription {
        let windowed = try LayerAttention(
            queryHeads: 6, kvHeads: 2, keyDim: 32, values: .own(16), scale: LayerAttention.defaultScale(keyDim: 32),
            visibility: .window(70), hasSinks: true)
        let second = try LayerAttention(
            queryHeads: 8, kvHeads: 2, keyDim: 40, values: kvFormat.hasScales ? .own(32) : .leading(32),
            scale: LayerAttention.defaultScale(keyDim: 40))
        let plain = try LayerAttention(
            queryHeads: 6, kvHeads: 2, keyDim: 32, values: .own(16), scale: LayerAttention.defaultScale(keyDim: 32))
        return try ModelDescription(
            layers: [windowed, second, plain], kvFormat: kvFormat, sinks: [[-1, 0, 0.5, 1.25, 2, 4], [], []],
            revision: "soak")
    }
}

/// A conversation's inputs, and where its steps are cut: what a client plays, in whole or from a fork on.
///
/// A story may begin as another one. Its first tokens and cuts are then the other's, so a fork of a sequence that
/// played the other one at that cut goes on as this one.
struct Story: Sendable {
    struct Parent: Sendable {
        var story: Int
        /// How many of the parent's steps it shares.
        var steps: Int
    }

    let shape: ModelDescription
    let parent: Parent?
    /// What the client calls the tokens: those that stories share have the same ids, all others differ.
    private(set) var ids: [UInt32] = []
    /// Token ranges of the steps, without gaps.
    private(set) var steps: [Range<Int>] = []
    /// By layer: `[tokens][Hq][Dk]`, `[tokens][Hkv][Dk]`, `[tokens][Hkv][Dv]`; no values where the keys hold them.
    private(set) var queries: [[Float]]
    private(set) var keys: [[Float]]
    private(set) var values: [[Float]]

    var tokens: Int { steps.last?.upperBound ?? 0 }

    /// The last step boundary at or before a position, as the number of steps before it.
    func steps(until position: Int) -> Int { steps.prefix { $0.upperBound <= position }.count }

    /// Where step `index` begins; the end of all for the number of steps.
    func position(ofStep index: Int) -> Int { index == 0 ? 0 : steps[index - 1].upperBound }

    /// - Parameter length: at least so many tokens: chunks of prefill for half of what is its own, then decode.
    init(_ shape: ModelDescription, length: Int, parent: (story: Story, index: Int)?, _ random: inout SeededGenerator) {
        self.shape = shape
        var shared = 0
        if let parent {
            let count = Int.random(in: 1..<parent.story.steps.count, using: &random)
            self.parent = Parent(story: parent.index, steps: count)
            steps = Array(parent.story.steps.prefix(count))
            shared = parent.story.position(ofStep: count)
        } else {
            self.parent = nil
        }
        var end = shared
        while end < length {
            let count =
                end - shared < (length - shared) / 2
                ? Int.random(in: 5...40, using: &random) : Int.random(in: 1...3, using: &random)
            steps.append(end..<end + count)
            end += count
        }
        ids = Array((parent?.story.ids ?? []).prefix(shared))
        while ids.count < end { ids.append(UInt32.random(in: 0 ... .max, using: &random)) }
        func rows(_ old: [Float]?, _ heads: Int, _ dim: Int, _ limit: Float) -> [Float] {
            Array((old ?? []).prefix(shared * heads * dim))
                + random.distinctRows(tokens: end - shared, heads: heads, dim: dim, limit: limit)
        }
        (queries, keys, values) = ([], [], [])
        for layer in 0..<shape.layers {
            let kind = shape[layer]
            queries.append(rows(parent?.story.queries[layer], kind.queryHeads, kind.keyDim, 2))
            keys.append(rows(parent?.story.keys[layer], kind.kvHeads, kind.keyDim, 1))
            values.append(rows(parent?.story.values[layer], kind.kvHeads, kind.ownValueDim, 1))
        }
    }

    /// A tree of stories: every second begins as an earlier one.
    static func tree(_ shape: ModelDescription, count: Int, length: Int, _ random: inout SeededGenerator) -> [Story] {
        var stories: [Story] = []
        for index in 0..<count {
            let parent = index % 2 == 0 ? nil : Int.random(in: 0..<index, using: &random)
            stories.append(
                Story(
                    shape, length: length, parent: parent.map { (stories[$0], $0) }, &random))
        }
        return stories
    }

    /// How many steps two stories of a tree begin with in common.
    static func sharedSteps(_ first: Int, _ second: Int, in tree: [Story]) -> Int {
        guard first != second else { return tree[first].steps.count }
        let (older, younger) = (min(first, second), max(first, second))
        guard let parent = tree[younger].parent else { return 0 }
        return min(parent.steps, sharedSteps(older, parent.story, in: tree))
    }

    /// What a step brings.
    /// - Parameter copies: for so many sequences that take it at once.
    func rows(_ step: Int, layer: Int, copies: Int = 1) -> (queries: TokenRows, keys: TokenRows, values: TokenRows?) {
        let (range, kind) = (steps[step], shape[layer])
        func some(_ rows: [Float], _ heads: Int, _ dim: Int) -> TokenRows {
            let rows = rows[range.lowerBound * heads * dim..<range.upperBound * heads * dim]
            return TokenRows(
                Array(repeatElement(rows, count: copies).joined()), tokens: copies * range.count, heads: heads, dim: dim
            )
        }
        return (
            some(queries[layer], kind.queryHeads, kind.keyDim), some(keys[layer], kind.kvHeads, kind.keyDim),
            kind.ownValueDim == 0 ? nil : some(values[layer], kind.kvHeads, kind.ownValueDim)
        )
    }

    /// A token's row as a store holds it: K of the group's heads, then V.
    func storedRow(_ position: Int, layer: Int, kvHeads: Range<Int>) -> [UInt8] {
        let kind = shape[layer]
        func some(_ rows: [Float], _ dim: Int) -> [Float] {
            kvHeads.flatMap { head in
                let start = (position * kind.kvHeads + head) * dim
                return rows[start..<start + dim]
            }
        }
        return Rounding.bytes(
            Rounding.kept(some(keys[layer], kind.keyDim), dim: kind.keyDim, areKeys: true, shape.kvFormat)
                + Rounding.kept(
                    some(values[layer], kind.ownValueDim), dim: kind.ownValueDim, areKeys: false, shape.kvFormat),
            as: shape.kvFormat.rowType)
    }

    /// The answer to a step in Float64, over keys and values as the cache holds them.
    func reference(_ step: Int, layer: Int) -> ReferenceAttention.Result {
        let (range, kind) = (steps[step], shape[layer])
        func some(_ rows: [Float], _ heads: Int, _ dim: Int, _ range: Range<Int>) -> [Float] {
            Array(rows[range.lowerBound * heads * dim..<range.upperBound * heads * dim])
        }
        let seen = 0..<range.upperBound
        return ReferenceAttention(kind).attend(
            queries: some(queries[layer], kind.queryHeads, kind.keyDim, range),
            keys: Rounding.kept(
                some(keys[layer], kind.kvHeads, kind.keyDim, seen), dim: kind.keyDim, areKeys: true, shape.kvFormat),
            values: Rounding.kept(
                some(values[layer], kind.kvHeads, kind.ownValueDim, seen), dim: kind.ownValueDim, areKeys: false,
                shape.kvFormat),
            position: range.lowerBound, sinks: shape.sinks[layer])
    }
}

/// The bits of an answer.
struct AnswerBits: Equatable, Sendable {
    let outputs: [UInt32]
    let lse: [UInt32]

    init(_ output: AttentionOutput) {
        outputs = output.outputs.map(\.bitPattern)
        lse = output.lse.map(\.bitPattern)
    }
}
