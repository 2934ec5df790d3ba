// SPDX-License-Identifier: Apache-2.0

import DCPCore
import DCPTestKit
import Testing

@Suite("model description")
struct ModelDescriptionTests {
    private static func kind(
        _ heads: Int = 8, kvHeads: Int = 4, keyDim: Int = 96, values: LayerAttention.Values = .own(64),
        softcap: Float? = nil, sees visibility: Visibility = .all, hasSinks: Bool = false
    ) throws -> LayerAttention {
        try LayerAttention(
            queryHeads: heads, kvHeads: kvHeads, keyDim: keyDim, values: values, scale: 0.125, softcap: softcap,
            visibility: visibility, hasSinks: hasSinks)
    }

    private static func sinks(_ layers: [LayerAttention]) -> [[Float]] {
        layers.enumerated().map { layer, kind in
            kind.hasSinks ? (0..<kind.queryHeads).map { Float(layer * 100 + $0) / 8 } : []
        }
    }

    private static func models() throws -> [ModelDescription] {
        let full = try kind(), local = try kind(sees: .window(1024)), capped = try kind(softcap: 50, sees: .window(1))
        let sunk = try kind(16, kvHeads: 2, hasSinks: true),
            sunkLocal = try kind(16, kvHeads: 2, sees: .window(128), hasSinks: true)
        let latent = try kind(128, kvHeads: 1, keyDim: 576, values: .leading(512))
        let gemma = Array(repeating: local, count: 5) + [full]
        let gptOSS = [sunkLocal, sunk, sunkLocal, sunk]
        return [
            try ModelDescription(layers: [full], kvFormat: .bfloat16),
            try ModelDescription(
                layers: Array((0..<5).map { _ in gemma }.joined()) + [local, local], kvFormat: .float16,
                revision: "sha256:00ff"),
            try ModelDescription(layers: [capped, full, capped], kvFormat: .float32, revision: "ü"),
            try ModelDescription(layers: gptOSS, kvFormat: .bfloat16, sinks: sinks(gptOSS)),
            try ModelDescription(layers: Array(repeating: latent, count: 61), kvFormat: .bfloat16),
            try ModelDescription(
                layers: Array(repeating: full, count: 1024), kvFormat: .bfloat16,
                revision: String(repeating: "x", count: 255)),
        ]
    }

    @Test("every description comes back from its bytes")
    func roundTrip() throws {
        for model in try Self.models() {
            let back = try ModelDescription(encoded: model.encoded)
            #expect(back == model)
            #expect(back.encoded == model.encoded)
            #expect(back.sinks == model.sinks && back.revision == model.revision)
        }
    }

    @Test("golden bytes of two kinds, with a revision and sinks")
    func golden() throws {
        let layers = [
            try LayerAttention(
                queryHeads: 2, kvHeads: 1, keyDim: 576, values: .leading(512), scale: 1, softcap: 2, visibility: .all,
                hasSinks: true),
            try LayerAttention(
                queryHeads: 0x0102, kvHeads: 1, keyDim: 64, values: .own(32), scale: 0.5,
                visibility: .window(0x0102_0304)),
            try LayerAttention(
                queryHeads: 0x0102, kvHeads: 1, keyDim: 64, values: .own(32), scale: 0.5,
                visibility: .window(0x0102_0304)),
        ]
        let model = try ModelDescription(
            layers: layers, kvFormat: .float16, sinks: [[1, -2], [], []], revision: "r1")
        let expected: [UInt8] = [
            1, 2, 2, 0x72, 0x31, 2, 0,
            2, 0, 1, 0, 0x40, 2, 0, 2, 0, 0, 0x80, 0x3F, 0, 0, 0, 0x40, 1, 1, 0, 0, 0, 0, 0, 0,
            2, 1, 1, 0, 64, 0, 32, 0, 0, 0, 0, 0x3F, 0, 0, 0, 0, 0, 0, 1, 0, 4, 3, 2, 1,
            2, 0, 0, 0, 1, 0, 1, 0, 2, 0,
            0, 0, 0x80, 0x3F, 0, 0, 0, 0xC0,
        ]
        #expect(model.encoded == expected)
        #expect(model.runs.map(\.layers) == [0..<1, 1..<3])
    }

    @Test(
        "bytes cut off anywhere, one too many, and another format are refused; flipped bits give a model or are refused"
    )
    func damage() throws {
        for model in try Self.models().prefix(5) {
            let bytes = model.encoded
            for count in 0..<bytes.count {
                #expect(throws: ServiceError.self) { try ModelDescription(encoded: bytes[..<count]) }
            }
            #expect(throws: ServiceError.self) { try ModelDescription(encoded: bytes + [0]) }
            for index in bytes.indices {
                for bit in 0..<8 {
                    var flipped = bytes
                    flipped[index] ^= 1 << bit
                    // Whatever it then says, it says it in one form only.
                    if let other = try? ModelDescription(encoded: flipped) { #expect(other.encoded == flipped) }
                }
            }
            var newer = bytes
            newer[0] = 9
            let error = try #require(throws: ServiceError.self) { try ModelDescription(encoded: newer) }
            #expect(error.code == .invalidModel && error.message.contains("format 9, but this program reads 1"))
        }
    }

    @Test("each difference is named once, with both values; no revision asks for none")
    func differences() throws {
        func model(
            _ layers: [LayerAttention], _ format: CacheFormat = .bfloat16, revision: String? = nil, sink: Float = 0
        )
            throws
            -> ModelDescription
        {
            try ModelDescription(
                layers: layers, kvFormat: format,
                sinks: layers.map { $0.hasSinks ? Array(repeating: sink, count: $0.queryHeads) : [] },
                revision: revision)
        }
        let full = try Self.kind(), local = try Self.kind(sees: .window(9)), sunk = try Self.kind(hasSinks: true)
        let base = try model([full, full])
        func differences(_ other: ModelDescription, _ known: ModelDescription? = nil) -> [String] {
            other.differences(from: known ?? base)
        }
        #expect(differences(base) == [])
        #expect(differences(try model([full])) == ["layers: 1, not 2"])
        #expect(differences(try model([full, full], .float32)) == ["cache format: f32, not bf16"])
        #expect(differences(try model([full, local])) == ["layer 1, visibility: window of 9 tokens, not all"])
        #expect(differences(try model([local, local])) == ["layer 0, visibility: window of 9 tokens, not all"])
        #expect(differences(try model([full, sunk])) == ["layer 1, sinks: one for each query head, not none"])
        let wide = try Self.kind(16, kvHeads: 8, keyDim: 98, values: .own(66), softcap: 1)
        #expect(differences(try model([wide, full])).count == 5)
        let latent = try Self.kind(values: .leading(64))
        #expect(differences(try model([full, latent])) == ["layer 1, values: of the keys, not own"])
        let known = try model([full, full], revision: "a")
        #expect(differences(base, known) == [])
        #expect(differences(try model([full, full], revision: "b"), known) == ["revision: `b`, not `a`"])
        #expect(differences(known) == ["revision: `a`, not none"])
        #expect(
            differences(try model([full, sunk], sink: 1), try model([full, sunk], sink: 2)) == ["the sinks of layer 1"])
    }

    @Test("a model is described in a person's terms")
    func text() throws {
        let models = try Self.models()
        #expect(models[0].pattern == "1 x all")
        #expect(models[1].pattern == "5 x (5 x window of 1024 tokens, 1 x all), 2 x window of 1024 tokens")
        #expect(models[1].kindLines[1].hasPrefix("layers 5, 11, 17, 23, 29: 8 query heads on 4 KV heads"))
        #expect(models[3].pattern == "2 x (1 x window of 128 tokens, 1 x all)")
        #expect(
            models[4].kindLines == [
                "layers 0 to 60: 128 query heads on 1 KV head, keys of 576, values their first 512, scale 0.125, all tokens"
            ])
    }

    @Test("an impossible model is refused with the value and the limit")
    func refusals() throws {
        func message(_ body: () throws -> Void) -> String {
            do {
                try body()
                return "nothing"
            } catch let error as ServiceError {
                return error.message
            } catch {
                return "\(error)"
            }
        }
        let full = try Self.kind(), sunk = try Self.kind(hasSinks: true)
        for (body, text) in [
            ({ _ = try ModelDescription(layers: [], kvFormat: .bfloat16) }, "0 layers are outside 1...1024"),
            ({ _ = try Self.kind(keyDim: 578) }, "578 is not an even number in 8...576"),
            ({ _ = try Self.kind(values: .own(514)) }, "514 is not an even number in 8...512"),
            ({ _ = try Self.kind(values: .leading(98)) }, "first 98 dimensions of the keys, but the keys have 96"),
            ({ _ = try Self.kind(sees: .window(0)) }, "A window of 0 tokens is outside 1..."),
            ({ _ = try Self.kind(sees: .window(1 << 33)) }, "A window of 8589934592 tokens"),
            (
                { _ = try ModelDescription(layers: [sunk], kvFormat: .bfloat16) },
                "Layer 0 has 0 sinks, its attention 8"
            ),
            (
                { _ = try ModelDescription(layers: [full], kvFormat: .bfloat16, sinks: [[1]]) },
                "Layer 0 has 1 sinks, its attention 0"
            ),
            (
                {
                    _ = try ModelDescription(
                        layers: [sunk], kvFormat: .bfloat16, sinks: [Array(repeating: Float.nan, count: 8)])
                }, "A sink of layer 0 is NaN"
            ),
            (
                {
                    _ = try ModelDescription(
                        layers: [full], kvFormat: .bfloat16, revision: String(repeating: "é", count: 128))
                }, "A revision of 256 bytes"
            ),
        ] as [(() throws -> Void, String)] {
            let found = message(body)
            #expect(found.contains(text), "\(found)")
        }
    }

    @Test("a window begins where its length says, whatever is before it")
    func visibility() {
        #expect([0, 5, 9, 10, 11].map { Visibility.all.first(seenFrom: $0) } == [0, 0, 0, 0, 0])
        #expect([0, 5, 9, 10, 11].map { Visibility.window(10).first(seenFrom: $0) } == [0, 0, 0, 1, 2])
        #expect([0, 1, 2].map { Visibility.window(1).first(seenFrom: $0) } == [0, 1, 2])
    }
}
