// SPDX-License-Identifier: Apache-2.0

import DCPClient
import DCPCore
import DCPTestKit
import DCPWire
import Testing

extension Integration {
    /// Steps that do one half alone: queries at positions that are there, and tokens without queries.
    @Suite("queries alone, and appends alone")
    struct QueryTests {
        static let setups = [
            ClusterSetup(ranks: 1, interleave: 16, blockTokens: 16),
            ClusterSetup(ranks: 2, interleave: 1, blockTokens: 16),
            ClusterSetup(ranks: 3, interleave: 16, blockTokens: 16),
            ClusterSetup(ranks: 4, interleave: 1, blockTokens: 16),
            ClusterSetup(ranks: 4, headGroups: 2, interleave: 16, blockTokens: 16),
        ]

        /// Counts 1, 7 and 96 at the beginning, about the edges of blocks, and at the end.
        static func ranges(_ setup: ClusterSetup, tokens: Int) -> [Range<Int>] {
            let block = setup.contextRanks * setup.blockTokens
            let starts = [
                0, 1, setup.blockTokens - 1, block - 1, block, block + 1, tokens - 1, tokens - 7, tokens - 96,
            ]
            return starts.flatMap { start in [1, 7, 96].map { start..<start + $0 } }.filter {
                $0.lowerBound >= 0 && $0.upperBound <= tokens
            }
        }

        @Test(
            "queries alone over every kind of layer: float64 attention, in any form the same bits, committed or not",
            arguments: setups)
        func forms(setup: ClusterSetup) async throws {
            var gathering = setup
            gathering.exchange = .allGatherReduceScatter
            try await setup.run { allToAll in
                try await gathering.run { allGather in
                    for type in [CacheFormat.bfloat16, .float32] {
                        let tokens = setup.contextRanks * setup.blockTokens + 130
                        let trace = Trace(try KindTests.shape(setup, type), tokens: tokens, salt: 61)
                        let ranges = Self.ranges(setup, tokens: tokens)
                        let what = "\(setup.testDescription), \(type.name)"
                        func answers(_ cluster: TestCluster, _ mode: StepRequest.QueryMode, _ rule: CommitRule)
                            async throws -> [Answer]
                        {
                            try await cluster.withClient { client in
                                let sequence = try await client.open(
                                    trace, Fresh.name("queries"), model: "model-\(type.name)")
                                try await client.append(trace, Cuts([0, 5, tokens]), on: sequence, commit: rule)
                                return try await client.queries(trace, ranges, on: sequence, mode: mode)
                            }
                        }
                        let first = try await answers(allToAll, .gather, .never)
                        for (number, answer) in first.enumerated() {
                            let (layer, range) = (number / ranges.count, ranges[number % ranges.count])
                            trace.check(answer, layer: layer, range, what)
                        }
                        #expect(
                            try await answers(allToAll, .replicate, .everyStep) == first,
                            "\(what): replicated, committed")
                        #expect(try await answers(allGather, .gather, .atEnd) == first, "\(what): ag-rs, committed")
                    }
                }
            }
        }

        @Test(
            "answers have the numbers of the steps that brought the tokens; the first one's output is its value",
            arguments: setups)
        func beside(setup: ClusterSetup) async throws {
            try await setup.run { cluster in
                try await cluster.withClient { client in
                    let trace = Trace(try shape(8, 2, 32, 32, .bfloat16), tokens: 140, salt: 62)
                    let sequence = try await client.open(trace, Fresh.name("beside"))
                    let cuts = Cuts([0, 1, 30, 31, 127, 140])
                    let brought = try await client.play(trace, cuts, on: sequence, commit: .never)[0]
                    let first = try await client.queries(trace, [0..<1], on: sequence)[0]
                    let width = 8 * 32
                    #expect(first.outputs == Array(brought.outputs.prefix(width)))
                    // A token beside no other is scored by another loop: its sum has another order.
                    for (queried, stepped) in zip(first.lse, brought.lse) {
                        #expect(abs(queried - stepped) <= 2 * Float(Answer.lseErrorMax))
                    }
                    let whole = try await client.queries(trace, [0..<140], on: sequence)[0]
                    let largest = zip(whole.outputs, brought.outputs).reduce(Float(0)) { max($0, abs($1.0 - $1.1)) }
                    #expect(largest <= 2 * Float(Answer.outputErrorMax), "DCP_SEED=\(SeededGenerator.seed)")
                    // Nothing is appended, and the sequence goes on where it was.
                    #expect(try await client.status(of: sequence).layerLengths == [140])
                    let error = await #expect(throws: ServiceError.self) {
                        try await client.queries(trace, [139..<140], at: 140, on: sequence)
                    }
                    #expect(error?.code == .positionMismatch && error?.message.contains("140..<141") == true)
                    #expect(error?.message.contains("140 tokens") == true)
                }
            }
        }

        @Test("queries behind the steps whose tokens they see, all sent before the first answer")
        func pipelined() async throws {
            try await ClusterSetup(ranks: 3, interleave: 4).run { cluster in
                let trace = Trace(try mixedShape(), tokens: 60, salt: 63)
                let sequence = try await cluster.withClient { try await $0.open(trace, "s") }
                for layer in 0..<trace.shape.layers {
                    let ranges = stride(from: 0, to: 60, by: 5).map { $0..<$0 + 5 }
                    let sent = ranges.flatMap { [($0, appends: true), ($0, appends: false)] }
                    let answers = try await Pipeline(cluster).send(trace, layer: layer, sent, on: sequence)
                    for (step, answer) in zip(sent, answers) {
                        trace.check(answer, layer: layer, step.0, step.appends ? "a step" : "queries behind a step")
                    }
                }
            }
        }

        @Test("appends without queries: what is read back is what was sent, in any chunks", arguments: setups)
        func appends(setup: ClusterSetup) async throws {
            try await setup.run { cluster in
                try await cluster.withClient { client in
                    for type in DataType.allCases {
                        var trace = Trace(
                            try KindTests.shape(setup, CacheFormat(type)), tokens: 230, salt: 64 + UInt64(type.rawValue)
                        )
                        trace.wireType = type
                        let sequence = try await client.open(trace, Fresh.name("appends"))
                        try await client.append(
                            trace, Cuts([0, 1, 2, 17, 48, 49, 200, 230]), on: sequence, commit: .everyStep)
                        for layer in 0..<trace.shape.layers {
                            for positions in [0..<230, 0..<1, 15..<17, 3..<3, 100..<229] {
                                let found = try await client.rows(of: sequence, layer: layer, positions: positions)
                                let sent = trace.bytes(layer, positions)
                                #expect(found.keys == sent.keys && found.values == sent.values, "\(type), \(positions)")
                            }
                        }
                    }
                }
            }
        }

        @Test("one rank's number that is not finite leaves no rank of the group with the tokens", arguments: [0, 1, 2])
        func refused(owner: Int) async throws {
            try await ClusterSetup(ranks: 3, interleave: 1).run { cluster in
                try await cluster.withClient { client in
                    await client.sendUnchecked()
                    var trace = Trace(try shape(4, 2, 16, 16, .bfloat16), tokens: 12, salt: 65)
                    let sequence = try await client.open(trace, Fresh.name("refused"))
                    try await client.append(trace, Cuts([0, 6]), on: sequence, commit: .never)
                    let token = 6 + owner
                    let good = trace
                    trace.layers[0].keys[token * 2 * 16 + 20] = .infinity
                    let error = await #expect(throws: ServiceError.self) {
                        try await client.append(trace, Cuts([6, 12]), on: sequence, commit: .never)
                    }
                    #expect(error?.code == .invalidRequest)
                    #expect(
                        error?.message.contains("key of token \(owner) of the step, KV head 1") == true, "\(error!)")
                    // Without a resume: no rank keeps the tokens. The verdict may still be on its way to some.
                    try await client.appendWhenTakenBack(good, Cuts([6, 12]), on: sequence)
                    try await client.commit(sequence, 12)
                    let found = try await client.rows(of: sequence, layer: 0, positions: 0..<12)
                    #expect(found.keys == good.bytes(0, 0..<12, as: .bfloat16).keys)
                }
            }
        }
    }
}

extension Cluster {
    /// Appends a trace's tokens without attention, layer after layer.
    fileprivate func append(
        _ trace: Trace, _ cuts: Cuts, on sequence: SequenceHandle, commit rule: CommitRule
    ) async throws(ServiceError) {
        for range in cuts.ranges {
            for layer in 0..<trace.shape.layers {
                let rows = trace.rows(layer, range)
                try await append(
                    layer: layer, [sequence.entry(position: range.lowerBound, count: range.count)],
                    model: sequence.model, keys: rows.keys, values: rows.values)
            }
            if rule == .everyStep { try await commit(sequence, range.upperBound) }
        }
        if rule == .atEnd { try await commit(sequence, cuts.end) }
    }

    /// Appends where others were refused, as soon as every rank has heard of that.
    fileprivate func appendWhenTakenBack(
        _ trace: Trace, _ cuts: Cuts, on sequence: SequenceHandle
    ) async throws(ServiceError) {
        for _ in 0..<1000 {
            do throws(ServiceError) {
                return try await append(trace, cuts, on: sequence, commit: .never)
            } catch {
                guard [.positionMismatch, .stepAborted].contains(error.code) else { throw error }
            }
        }
        Issue.record("A rank keeps tokens that another has refused; DCP_SEED=\(SeededGenerator.seed)")
    }

    /// Queries at positions that are there, in all layers.
    /// - Parameter position: the position to request instead of the queries' own.
    fileprivate func queries(
        _ trace: Trace, _ ranges: [Range<Int>], at position: Int? = nil, on sequence: SequenceHandle,
        mode: StepRequest.QueryMode = .gather
    ) async throws(ServiceError) -> [Answer] {
        var answers: [Answer] = []
        for layer in 0..<trace.shape.layers {
            for range in ranges {
                let output = try await query(
                    layer: layer, [sequence.entry(position: position ?? range.lowerBound, count: range.count)],
                    model: sequence.model, queries: trace.rows(layer, range).queries, queryMode: mode)
                answers.append(Answer(output))
            }
        }
        return answers
    }
}

extension Trace {
    /// What `rows` reads back of some tokens.
    fileprivate func bytes(
        _ layer: Int, _ range: Range<Int>, as type: DataType? = nil
    ) -> (keys: [UInt8], values: [UInt8]) {
        let kind = shape[layer]
        func some(_ rows: [Float], _ dim: Int) -> [UInt8] {
            let part = Array(rows[range.lowerBound * kind.kvHeads * dim..<range.upperBound * kind.kvHeads * dim])
            return Rounding.bytes(part, as: type ?? wireType)
        }
        return (some(layers[layer].keys, kind.keyDim), some(layers[layer].values, kind.ownValueDim))
    }
}
