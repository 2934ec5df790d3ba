// SPDX-License-Identifier: Apache-2.0

import DCPBench
import DCPCore
import Testing

@Suite("parameters")
struct ParameterTests {
    @Test(
        "shapes: with one dimension or two, and by name",
        arguments: [
            ("32x8x128", [32, 8, 128, 128], "32x8x128"), ("32X8X192x128", [32, 8, 192, 128], "32x8x192x128"),
            ("llama-70b", [64, 8, 128, 128], "64x8x128"), ("SmolLM2-135M", [9, 3, 64, 64], "9x3x64"),
            ("8x8x64x64", [8, 8, 64, 64], "8x8x64"),
        ])
    func shapes(text: String, numbers: [Int], description: String) throws {
        let shape = try AttentionShape(text)
        #expect([shape.queryHeads, shape.kvHeads, shape.keyDim, shape.valueDim] == numbers)
        #expect("\(shape)" == description)
    }

    @Test("a latent shape's values are the first dimensions of its keys, which have as many")
    func latent() throws {
        let shape = try AttentionShape("128x1x576x512", isLatent: true)
        #expect(shape.isLatent && "\(shape)" == "128x1x576x512 latent")
        #expect(try Lists.shapes("8x1x64x32,4x1x64", areLatent: true).map(\.isLatent) == [true, true])
        refused(.invalidModel, words: ["128", "64"]) { _ = try AttentionShape("8x1x64x128", isLatent: true) }
    }

    @Test(
        "a text that is not a shape is refused with the text and the valid forms",
        arguments: [
            "", "32", "32x8", "32x8x", "x8x128", "32x8x128x128x1", "ax8x128", "-32x8x128", "+32x8x128", "32x8x1e2",
            "llama", "32 x8x128", "99999999999999999999x8x128",
        ])
    func nonsense(text: String) {
        refused(.invalidConfiguration, words: [text.debugDescription, "32x8x128", "llama-8b"]) {
            _ = try AttentionShape(text)
        }
    }

    @Test("a shape of numbers that no model may have is refused as a model is")
    func impossible() {
        refused(.invalidModel, words: ["5 KV heads", "32 query heads"]) { _ = try AttentionShape("32x5x128") }
        refused(.invalidModel, words: ["1024"]) { _ = try AttentionShape("0x8x128") }
        refused(.invalidModel, words: ["127"]) { _ = try AttentionShape("32x8x127") }
    }

    @Test("numbers: suffixes are powers of 1024, commas part them")
    func counts() throws {
        #expect(
            try Lists.counts("32k,128K,1m,7", option: "--context", in: 1...(1 << 30)) == [32768, 131072, 1 << 20, 7])
        #expect(try Lists.count("4", option: "--count", in: 1...4) == 4)
    }

    @Test(
        "a value that is not a number in the range is refused with the item, the option and the range",
        arguments: ["", "x", "32kk", "-1", "0", "65", "1k", "1.5", "k", "9223372036854775807k"])
    func badCounts(text: String) {
        refused(.invalidConfiguration, words: [text.debugDescription, "--threads"]) {
            _ = try Lists.counts(text, option: "--threads", in: 1...64)
        }
    }

    @Test("an empty item of a list, and a list where one number belongs, are refused")
    func lists() {
        refused(.invalidConfiguration, words: ["\"1,,2\"", "empty"]) {
            _ = try Lists.counts("1,,2", option: "--threads", in: 1...64)
        }
        refused(.invalidConfiguration, words: ["--count", "one number"]) {
            _ = try Lists.count("1,2", option: "--count", in: 1...64)
        }
        #expect(try! Lists.formats("bf16,int8,fp8") == [.bfloat16, .int8, .fp8])
        refused(.invalidConfiguration, words: ["int4", "bf16, f16, f32, int8 or fp8"]) {
            _ = try Lists.formats("bf16,int4")
        }
        refused(.invalidConfiguration, words: ["f16", "bf16 or f32"]) { _ = try QueryKind(option: "f16") }
    }

    private func refused(
        _ code: ServiceError.Code, words: [String], sourceLocation: SourceLocation = #_sourceLocation,
        _ body: () throws -> Void
    ) {
        let error = #expect(throws: ServiceError.self, sourceLocation: sourceLocation) { try body() }
        #expect(error?.code == code, sourceLocation: sourceLocation)
        for word in words {
            #expect(
                error?.message.contains(word) == true, "no \(word) in \(error?.message ?? "")",
                sourceLocation: sourceLocation)
        }
    }
}
