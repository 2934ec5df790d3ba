// SPDX-License-Identifier: Apache-2.0

import DCPCore
import Testing

@Suite("shapes and their messages")
struct ShapeTests {
    private func model(
        layers: Int = 2, queryHeads: Int = 8, kvHeads: Int = 4, keyDim: Int = 64, valueDim: Int = 32,
        scale: Float = 0.125, softcap: Float? = nil, kvFormat: CacheFormat = .bfloat16
    ) throws(ServiceError) -> ModelDescription {
        try ModelDescription(
            layers: layers, queryHeads: queryHeads, kvHeads: kvHeads, keyDim: keyDim, valueDim: valueDim, scale: scale,
            softcap: softcap, kvFormat: kvFormat)
    }

    private func cluster(
        ranks: Int = 4, headGroups: Int = 1, interleave: Int = 1, blockTokens: Int = 64, exchange: Exchange = .allToAll
    ) throws(ServiceError) -> ClusterShape {
        try ClusterShape(
            ranks: ranks, headGroups: headGroups, interleave: interleave, blockTokens: blockTokens, exchange: exchange)
    }

    @Test("a model that cannot be is refused with the value and what to correct")
    func modelValidation() throws {
        _ = try model()
        _ = try model(keyDim: 8, valueDim: 256, softcap: 30)
        func refused(_ words: [String], _ make: () throws -> ModelDescription) {
            let error = #expect(throws: ServiceError.self) { try make() }
            #expect(error?.code == .invalidModel)
            for word in words { #expect(error?.message.contains(word) == true, "\(error?.message ?? "") has \(word)") }
        }
        refused(["0 layers", "1...1024"]) { try model(layers: 0) }
        refused(["1025 layers"]) { try model(layers: 1025) }
        refused(["0 query heads"]) { try model(queryHeads: 0) }
        refused(["3 KV heads", "8 query heads"]) { try model(kvHeads: 3) }
        refused(["16 KV heads"]) { try model(kvHeads: 16) }
        refused(["0 KV heads"]) { try model(kvHeads: 0) }
        refused(["key head dimension 63", "8...576", "pad"]) { try model(keyDim: 63) }
        refused(["key head dimension 6 "]) { try model(keyDim: 6) }
        refused(["value head dimension 514"]) { try model(valueDim: 514) }
        refused(["scale 0.0"]) { try model(scale: 0) }
        refused(["scale nan"]) { try model(scale: .nan) }
        refused(["soft cap -1.0"]) { try model(softcap: -1) }
        refused(["soft cap inf"]) { try model(softcap: .infinity) }
    }

    @Test("a cluster that cannot be is refused with the value and the option to change")
    func clusterValidation() throws {
        for (ranks, groups, words) in [
            (0, 1, ["0 ranks", "--ranks"]), (1025, 1, ["1025 ranks"]), (4, 3, ["4 ranks", "3 head groups"]),
            (4, 0, ["0 head groups", "--head-groups"]),
        ] {
            let error = #expect(throws: ServiceError.self) { try cluster(ranks: ranks, headGroups: groups) }
            #expect(error?.code == .invalidConfiguration)
            for word in words { #expect(error?.message.contains(word) == true, "\(error?.message ?? "") has \(word)") }
        }
        let groups = try cluster(ranks: 6, headGroups: 3)
        let error = #expect(throws: ServiceError.self) { try groups.check(try model()) }
        #expect(error?.code == .invalidModel)
        #expect(error?.message.contains("4 KV heads") == true && error?.message.contains("3 head groups") == true)
    }

    @Test("a model whose blocks are larger than a value can be is refused with the size, the limit and what fits")
    func blockSize() throws {
        let wide = try model(queryHeads: 1024, kvHeads: 1024, keyDim: 256, valueDim: 256, kvFormat: .float32)
        let error = #expect(throws: ServiceError.self) { try cluster(blockTokens: 4096).check(wide) }
        #expect(error?.code == .invalidModel)
        for word in ["8589934592", "4294963200", "at most 2032", "--head-groups"] {
            #expect(error?.message.contains(word) == true, "\(error?.message ?? "") has \(word)")
        }
        try cluster(blockTokens: 2032).check(wide)
        try cluster(ranks: 4, headGroups: 4, blockTokens: 4096).check(wide)
        #expect(throws: ServiceError.self) { try cluster(blockTokens: 2048).check(wide) }
    }

    @Test("ranks are numbered by head group, then by context rank")
    func ranks() throws {
        let shape = try cluster(ranks: 6, headGroups: 2)
        #expect(shape.contextRanks == 3)
        #expect(shape.allRanks.map { shape.headGroup(of: $0) } == [0, 0, 0, 1, 1, 1])
        #expect(shape.allRanks.map { shape.contextRank(of: $0) } == [0, 1, 2, 0, 1, 2])
        #expect(shape.members(ofHeadGroup: 1) == [RankIndex(3), RankIndex(4), RankIndex(5)])
        let partition = shape.partition(of: try model()[0])
        #expect(partition == HeadPartition(queryHeads: 4, kvHeads: 2, contextRanks: 3))
    }

    @Test("TRAPS 21: fingerprints differ on every field that changes the layout")
    func fingerprints() throws {
        // What no byte of a store depends on is left out: query heads, scale and soft cap.
        let models = [
            try model(), try model(layers: 3), try model(kvHeads: 8), try model(keyDim: 66), try model(valueDim: 34),
            try model(kvFormat: .float16),
        ]
        let clusters = [
            try cluster(), try cluster(ranks: 8), try cluster(ranks: 8, headGroups: 2), try cluster(headGroups: 2),
            try cluster(interleave: 2), try cluster(blockTokens: 128),
        ]
        let ofClusters = clusters + [try cluster(exchange: .allGatherReduceScatter)]
        #expect(Set(ofClusters.map { LayoutFingerprint($0).value }).count == ofClusters.count)

        let ofModels =
            models.map { LayoutFingerprint($0, in: clusters[0]) }
            + [clusters[1], clusters[2], clusters[3], clusters[4], clusters[5]].map {
                LayoutFingerprint(models[0], in: $0)
            }
        #expect(Set(ofModels.map(\.value)).count == ofModels.count)
        #expect(Set(ofModels.map(\.text)).count == ofModels.count)
        #expect(LayoutFingerprint(try model(), in: try cluster()) == ofModels[0])
    }
}
