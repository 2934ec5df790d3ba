// SPDX-License-Identifier: Apache-2.0

import DCPCore
import DCPRank
import DCPWire
import NIOCore
import Testing

@Suite("StepPlan: what all ranks know alike")
struct StepPlanTests {
    private func model(queryHeads: Int = 9, kvHeads: Int = 3) throws -> ModelRecord {
        ModelRecord(
            id: ModelID(1), name: "smol",
            description: try ModelDescription(
                layers: 2, queryHeads: queryHeads, kvHeads: kvHeads, keyDim: 64, valueDim: 32, scale: 1, softcap: nil,
                kvFormat: .bfloat16))
    }

    private func cluster(_ ranks: Int, groups: Int = 1, interleave: Int = 1) throws -> ClusterShape {
        try ClusterShape(
            ranks: ranks, headGroups: groups, interleave: interleave, blockTokens: 64, exchange: .allToAll)
    }

    /// A request that fits rank 1 of four: 2 of 9 query heads.
    private func request() -> StepRequest {
        StepRequest(
            model: ModelID(1), queryMode: .gather, wantsLSE: true, timeoutMilliseconds: 1,
            entries: [.init(sequence: SequenceID(1), position: 5, count: 2)], queryDataType: .float32,
            keyValueDataType: .bfloat16, queryHeads: 2, kvHeads: 3, keyDim: 64, valueDim: 32, keyValueTokens: 2,
            tensors: ByteBuffer())
    }

    @Test("a request that fits: own heads, rows and tokens")
    func fits() throws {
        let plan = try StepPlan(request(), layer: 0, model: try model(), cluster: try cluster(4), rank: RankIndex(1))
        #expect(plan.ownHeads == 3..<5 && plan.members == 4 && plan.tokens == 2 && plan.hasContext)
        #expect((0..<4).map { plan.rows(ofRank: $0) } == [0..<6, 6..<10, 10..<14, 14..<18])
        var replicated = request()
        replicated.queryMode = .replicate
        replicated.queryHeads = 9
        _ = try StepPlan(replicated, layer: 0, model: try model(), cluster: try cluster(4), rank: RankIndex(1))
    }

    @Test("a step is charged for its tensors, and with queries for what is computed of them")
    func byteCount() throws {
        var request = request()
        let brought = 768 + 384
        request.tensors = ByteBuffer(repeating: 0, count: brought + 1024)
        try request.checkTensors()
        let plan = try StepPlan(request, layer: 0, model: try model(), cluster: try cluster(4), rank: RankIndex(1))
        // Over the one token before position 5 that it owns there is one piece, with a state of each row.
        let rowByteCount = (32 + 2) * 4
        let queryByteCount = 64 * 4 + 64 * 6
        let computed = 2 * 9 * (queryByteCount + 2 * 32 * 4) + 2 * 9 * rowByteCount
        #expect(plan.byteCount(of: request, threads: 1) == brought + 1024 + computed)
        // Over a long context there are 128 of the 9 heads' rows, and up to 256.
        request.entries = [.init(sequence: SequenceID(1), position: 8_000_000, count: 1)]
        request.keyValueTokens = 1
        let long = try StepPlan(request, layer: 0, model: try model(), cluster: try cluster(4), rank: RankIndex(1))
        let states =
            long.byteCount(of: request, threads: 1) - request.payloadByteCount
            - 9 * (queryByteCount + 2 * 32 * 4)
        #expect(states >= 128 * 9 * rowByteCount && states <= 258 * 9 * rowByteCount)
        (request.entries, request.keyValueTokens) = ([.init(sequence: SequenceID(1), position: 5, count: 2)], 2)
        // Of positions 5 and 6 the rank owns one.
        (request.queryMode, request.queryHeads, request.keyValueTokens) = (.absent, 0, 1)
        request.tensors = ByteBuffer(repeating: 0, count: brought / 2)
        try request.checkTensors()
        let appending = try StepPlan(request, layer: 0, model: try model(), cluster: try cluster(4), rank: RankIndex(1))
        #expect(appending.byteCount(of: request, threads: 1) == brought / 2)
    }

    @Test("head groups: a rank of the second group answers for its group's heads, numbered inside it")
    func headGroups() throws {
        var request = request()
        (request.queryHeads, request.kvHeads) = (4, 2)
        let plan = try StepPlan(
            request, layer: 0, model: try model(queryHeads: 16, kvHeads: 4), cluster: try cluster(4, groups: 2),
            rank: RankIndex(3))
        #expect(plan.ownHeads == 4..<8 && plan.contextRank == 1 && plan.members == 2)
    }

    @Test("TRAPS 28: every number that does not fit is refused with both numbers, the rank and the model")
    func refusals() throws {
        let wrong: [(WritableKeyPath<StepRequest, Int>, Int, String, Int)] = [
            (\.queryHeads, 3, "query heads of its own", 2), (\.queryHeads, 9, "query heads of its own", 2),
            (\.kvHeads, 1, "KV heads", 3), (\.keyDim, 32, "key dimensions", 64),
            (\.valueDim, 64, "value dimensions", 32), (\.keyValueTokens, 1, "tokens with keys and values", 2),
        ]
        for (field, value, what, expected) in wrong {
            var request = request()
            request[keyPath: field] = value
            let error = try #require(throws: ServiceError.self) {
                try StepPlan(request, layer: 0, model: try model(), cluster: try cluster(4), rank: RankIndex(1))
            }
            #expect(error.code == .invalidRequest)
            #expect(error.message.contains("\(value) \(what)") && error.message.contains("needs \(expected)"))
            #expect(error.message.contains("rank 1") && error.message.contains("`smol`"))
        }
        var replicated = request()
        replicated.queryMode = .replicate
        let error = try #require(throws: ServiceError.self) {
            try StepPlan(replicated, layer: 0, model: try model(), cluster: try cluster(4), rank: RankIndex(1))
        }
        #expect(error.message.contains("2 query heads of its head group") && error.message.contains("needs 9"))
    }

    @Test("tensors of another size than the fields say are refused with both sizes")
    func tensors() throws {
        var request = request()
        let whole = 2 * 2 * 64 * 4 + 2 * 3 * (64 + 32) * 2
        for byteCount in [0, whole - 1, whole + 1, whole / 2] {
            request.tensors = ByteBuffer(repeating: 0, count: byteCount)
            let error = try #require(throws: ServiceError.self) { try request.checkTensors() }
            #expect(error.code == .invalidRequest && error.message.contains("\(byteCount) bytes of tensors"))
            #expect(error.message.contains("1024 of queries, 768 of keys and 384 of values"))
        }
        request.tensors = ByteBuffer(repeating: 0, count: whole)
        try request.checkTensors()
        #expect(request.queries.byteCount == 1024 && request.keys.byteCount == 768)
        #expect(request.values.byteCount == 384)
    }

    /// Positions 5..<12 and 0..<9 in runs of 4 over 3 ranks: 5...7 and 4...7 are rank 1's.
    @Test("without queries a rank needs the tokens that it owns, and knows which of the step's they are")
    func owned() throws {
        var request = request()
        request.entries = [
            .init(sequence: SequenceID(1), position: 5, count: 7),
            .init(sequence: SequenceID(2), position: 0, count: 9),
        ]
        (request.queryMode, request.queryHeads) = (.absent, 0)
        let expected = [[7, 8, 9, 10], [0, 1, 2, 11, 12, 13, 14], [3, 4, 5, 6, 15]]
        for (rank, tokens) in expected.enumerated() {
            func plan(bringing count: Int) throws -> StepPlan {
                request.keyValueTokens = count
                return try StepPlan(
                    request, layer: 0, model: try model(), cluster: try cluster(3, interleave: 4),
                    rank: RankIndex(UInt16(rank)))
            }
            let fitting = try plan(bringing: tokens.count)
            #expect(!fitting.hasContext && fitting.needsGroup)
            #expect((0..<fitting.keyValueTokens).map { fitting.token(ofRow: $0) } == tokens)
            for wrong in [0, tokens.count - 1, 16] {
                let error = try #require(throws: ServiceError.self) { try plan(bringing: wrong) }
                #expect(error.code == .invalidRequest && error.message.contains("brings \(wrong) tokens with keys"))
                #expect(error.message.contains("needs \(tokens.count)"))
            }
        }
    }

    @Test("queries alone have context wherever they are, and bring no keys; neither keys nor queries is refused")
    func queriesAlone() throws {
        var request = request()
        (request.appends, request.keyValueTokens) = (false, 0)
        request.entries[0].position = 0
        let plan = try StepPlan(request, layer: 0, model: try model(), cluster: try cluster(4), rank: RankIndex(1))
        #expect(plan.hasContext && plan.needsGroup && plan.keyValueTokens == 0)
        request.keyValueTokens = 2
        var error = try #require(throws: ServiceError.self) {
            try StepPlan(request, layer: 0, model: try model(), cluster: try cluster(4), rank: RankIndex(1))
        }
        #expect(error.message.contains("2 tokens with keys and values and does not append"))
        (request.queryMode, request.queryHeads, request.keyValueTokens) = (.absent, 0, 0)
        error = try #require(throws: ServiceError.self) {
            try StepPlan(request, layer: 0, model: try model(), cluster: try cluster(4), rank: RankIndex(1))
        }
        #expect(error.code == .invalidRequest && error.message.contains("neither appends nor has queries"))
    }

    @Test("a sequence twice in one step is refused by name")
    func twice() throws {
        var request = request()
        request.entries.append(.init(sequence: SequenceID(1), position: 7, count: 1))
        let error = try #require(throws: ServiceError.self) {
            try StepPlan(request, layer: 0, model: try model(), cluster: try cluster(4), rank: RankIndex(1))
        }
        #expect(error.code == .invalidRequest && error.message.contains("sequence #1"))
    }

    /// (N, I, L): the local length of some rank is 0 while the sequence has context.
    @Test(
        "TRAPS 10: the skip decision is equal on all ranks",
        arguments: [(2, 16, 10), (4, 16, 10), (8, 16, 10), (4, 1, 2)])
    func skip(ranks: Int, interleave: Int, length: Int) throws {
        let cluster = try cluster(ranks, interleave: interleave)
        let model = try model(queryHeads: 8, kvHeads: 1)
        let locals = (0..<ranks).map { cluster.layout.localLength(ofRank: $0, length: length) }
        #expect(locals.contains(0) && locals.contains { $0 > 0 })
        for position in [0, length] {
            let decisions = try (0..<ranks).map { rank in
                var request = request()
                request.entries = [.init(sequence: SequenceID(1), position: position, count: 1)]
                request.keyValueTokens = 1
                (request.queryHeads, request.kvHeads) = (8 / ranks, 1)
                return try StepPlan(request, layer: 0, model: model, cluster: cluster, rank: RankIndex(UInt16(rank)))
                    .hasContext
            }
            #expect(decisions == Array(repeating: position > 0, count: ranks))
        }
    }

    @Test("one entry with context is enough for the whole step to exchange")
    func mixed() throws {
        var request = request()
        request.entries = (0..<3).map { .init(sequence: SequenceID($0), position: 0, count: 1) }
        request.keyValueTokens = 3
        #expect(
            !(try StepPlan(request, layer: 0, model: try model(), cluster: try cluster(4), rank: RankIndex(1)))
                .hasContext)
        request.entries[2].position = 1
        #expect(
            try StepPlan(request, layer: 0, model: try model(), cluster: try cluster(4), rank: RankIndex(1)).hasContext)
    }
}
