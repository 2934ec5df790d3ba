// SPDX-License-Identifier: Apache-2.0

import DCPClient
import DCPCore
import DCPSafetensors
import DCPTestKit
import DCPTransfer
import Foundation
import Testing

extension Integration {
    /// Sequence files whose rows are not in the form of the cache: of another dtype, or of another program.
    @Suite("rows in files")
    struct FileRowsTests {
        private static let length = 90

        /// Every row of a layer as the cache gives it back.
        private static func rows(
            _ client: Cluster, _ name: String, layer: Int = 0
        ) async throws -> (keys: [Float], values: [Float]) {
            let sequence = try await client.openSequence(name, model: nil)
            let rows = try await client.rows(of: sequence, layer: layer, positions: 0..<length)
            let dataType = sequence.model.description.kvFormat.rowType
            return (dataType.numbers(rows.keys), dataType.numbers(rows.values))
        }

        @Test(
            "--as writes rows of a dtype: f32 keeps the bits of any cache, a narrower one what it rounds them to",
            arguments: CacheFormat.allCases)
        func dtypes(format: CacheFormat) async throws {
            let salt = 3200 + UInt64(format.rawValue)
            let trace = Trace(try shape(8, 4, 16, 24, format), tokens: Self.length, salt: salt)
            try await ClusterSetup(ranks: 2, interleave: 4).run { cluster in
                let stored = try await cluster.withClient { client in
                    _ = try await client.play(
                        trace, Cuts([0, 60, Self.length]), on: client.open(trace, "chat", model: "m"))
                    return try await Self.rows(client, "chat")
                }
                for dataType in DataType.allCases {
                    let path = cluster.directory.path("\(dataType.name).safetensors")
                    let outcome = try await cluster.tool.run(
                        "sequence", "export", "chat", path, "--as", dataType.name, "--json")
                    #expect(outcome.status == 0, "\(outcome.messages)")
                    #expect(try outcome.object()["bytes"] as? Int == Self.length * 4 * (16 + 24) * dataType.byteCount)
                    let file = try SafetensorsFile.open(path)
                    for (name, numbers) in [("k", stored.keys), ("v", stored.values)] {
                        let tensor = try file.tensor(named: "layers.0.\(name)")
                        let bytes = try tensor.withBytes { (bytes) throws(ServiceError) in Array(bytes) }
                        #expect(tensor.dataType == dataType && bytes == Rounding.bytes(numbers, as: dataType))
                        #expect(file.entry(named: "layers.0.\(name)_scale") == nil)
                    }
                    let arguments = ["sequence", "import", path, "--name", dataType.name, "--json"]
                    let imported = try await cluster.tool.run(arguments)
                    #expect(imported.status == 0, "\(imported.messages)")
                    // What is there is compared with the file as the cache rounds it.
                    let again = try await cluster.tool.run(arguments + ["--resume"])
                    #expect(again.status == 0, "\(again.messages)")
                    #expect(try again.object()["tokens_kept"] as? Int == Self.length)
                    let copied = try await cluster.withClient { try await Self.rows($0, dataType.name) }
                    for (numbers, copy, dim, areKeys) in [
                        (stored.keys, copied.keys, 16, true), (stored.values, copied.values, 24, false),
                    ] {
                        let expected = Rounding.kept(
                            Rounding.rounded(numbers, to: dataType), dim: dim, areKeys: areKeys, format)
                        #expect(copy == expected, "\(dataType.name)")
                        if dataType == .float32 { #expect(copy.map(\.bitPattern) == numbers.map(\.bitPattern)) }
                    }
                }
            }
        }

        @Test("a number that the dtype cannot hold is refused, and no file appears")
        func overflow() async throws {
            var trace = Trace(try shape(4, 2, 16, 16, .float32), tokens: Self.length, salt: 3210)
            trace.layers[0].values[70 * 32 + 3] = -7e4
            try await ClusterSetup(ranks: 2).run { [trace] cluster in
                try await cluster.withClient { client in
                    let sequence = try await client.open(trace, "large", model: "m")
                    _ = try await client.play(trace, Cuts([0, Self.length]), on: sequence)
                }
                let path = cluster.directory.path("large.safetensors")
                try await cluster.tool.fails(
                    65, saying: ["layers.0.v", "-70000", "f16", "65519"],
                    ["sequence", "export", "large", path, "--as", "f16"])
                #expect(!FileManager.default.fileExists(atPath: path))
                #expect(try await cluster.tool.run("sequence", "export", "large", path, "--as", "bf16").status == 0)
            }
        }

        /// A file of one layer as another program may write it.
        private struct Foreign {
            var shape: ModelDescription
            var elements: SafetensorsDataType
            /// `[length][2][16]` and `[length][2][24]`.
            var keys: [UInt8]
            var values: [UInt8]
            /// `[length][2]` each.
            var keyScales: [Float]
            var valueScales: [Float]
            var metadata: [String: String] = [:]
            var withScales = true
            /// `[length][2]`, or none.
            var words: [UInt32] = []

            init(
                _ format: CacheFormat, _ elements: SafetensorsDataType, codes: [UInt8], exponents: ClosedRange<Int>,
                _ random: inout SeededGenerator
            ) throws {
                func bytes(_ dim: Int) -> [UInt8] {
                    (0..<length * 2 * dim).map { _ in codes.randomElement(using: &random)! }
                }
                func scales() -> [Float] {
                    (0..<length * 2).map { _ in
                        Float(sign: .plus, exponent: Int.random(in: exponents, using: &random), significand: 1)
                    }
                }
                shape = try IntegrationTests.shape(4, 2, 16, 24, format)
                self.elements = elements
                (keys, values, keyScales, valueScales) = (bytes(16), bytes(24), scales(), scales())
            }

            func write(to path: String) throws {
                let shapes = [("layers.0.k", [length, 2, 16]), ("layers.0.v", [length, 2, 24])]
                var tensors = shapes.map {
                    SafetensorsWriter.Declaration(name: $0.0, elements: elements, shape: $0.1)
                }
                if withScales {
                    tensors += shapes.map { .init(name: $0.0 + "_scale", dataType: .float32, shape: [length, 2]) }
                }
                if !words.isEmpty {
                    tensors.append(.init(name: "layers.0.k_apart", elements: .uint32, shape: [length, 2]))
                }
                let known = [
                    "format": "dcp-sequence", "format_version": "4", "sequence": "foreign", "model": "foreign",
                    "length": "\(length)", "description": Data(shape.encoded).base64EncodedString(),
                ]
                let writer = try SafetensorsWriter(
                    path: path, tensors: tensors, metadata: known.merging(metadata) { $1 })
                for (name, bytes, scales) in [
                    ("layers.0.k", keys, keyScales), ("layers.0.v", values, valueScales),
                ] {
                    try bytes.withUnsafeBytes { try writer.append($0, to: name) }
                    if withScales { try writer.append(scales, to: name + "_scale") }
                }
                if !words.isEmpty {
                    try words.withUnsafeBytes { try writer.append($0, to: "layers.0.k_apart") }
                }
                try writer.finish()
            }
        }

        @Test("e4m3 of another program, with scales that are powers of two, goes into a cache of fp8 and out exactly")
        func e4m3() async throws {
            var random = SeededGenerator.ofRun(salt: 3220)
            // All but NaN.
            let codes = (0..<256).filter { $0 & 0x7f != 0x7f }.map { UInt8($0) }
            let foreign = try Foreign(.fp8, .float8E4M3, codes: codes, exponents: -20...9, &random)
            func number(_ code: UInt8) -> Float {
                let (exponent, mantissa) = (Int(code >> 3 & 15), Float(code & 7))
                let magnitude =
                    exponent == 0
                    ? mantissa * 0x1p-9
                    : Float(sign: .plus, exponent: exponent - 7, significand: 1 + mantissa / 8)
                return code < 128 ? magnitude : -magnitude
            }
            func numbers(_ codes: [UInt8], _ scales: [Float], _ dim: Int) -> [Float] {
                codes.enumerated().map { number($1) * scales[$0 / dim] }
            }
            try await ClusterSetup(ranks: 2, interleave: 4).run { cluster in
                let (path, out) = (cluster.directory.path("in"), cluster.directory.path("out"))
                try foreign.write(to: path)
                let outcome = try await cluster.tool.run("sequence", "import", path)
                #expect(outcome.status == 0, "\(outcome.messages)")
                let rows = try await cluster.withClient { try await Self.rows($0, "foreign") }
                #expect(rows.keys == numbers(foreign.keys, foreign.keyScales, 16))
                #expect(rows.values == numbers(foreign.values, foreign.valueScales, 24))
                #expect(try await cluster.tool.run("sequence", "export", "foreign", out).status == 0)
                let file = try SafetensorsFile.open(out)
                for (name, dim, expected) in [("k", 16, rows.keys), ("v", 24, rows.values)] {
                    let entry = try #require(file.entry(named: "layers.0.\(name)"))
                    #expect(entry.dataType == .float8E4M3)
                    let scales = try file.tensor(named: "layers.0.\(name)_scale").floats(rows: 0..<Self.length)
                    #expect(numbers(try file.bytes(of: entry), scales, dim) == expected)
                }
            }
        }

        @Test("bytes of another program are numbers times scales in any cache; what is wrong with them is named")
        func integers() async throws {
            var random = SeededGenerator.ofRun(salt: 3230)
            let codes = (0..<256).map { UInt8($0) }
            let foreign = try Foreign(.float32, .int8, codes: codes, exponents: -9...0, &random)
            try await ClusterSetup(ranks: 2).run { cluster in
                let path = cluster.directory.path("in")
                try foreign.write(to: path)
                let outcome = try await cluster.tool.run("sequence", "import", path)
                #expect(outcome.status == 0, "\(outcome.messages)")
                let rows = try await cluster.withClient { try await Self.rows($0, "foreign") }
                // Without `key_rotation` keys are as a model has them.
                for (found, bytes, scales, dim) in [
                    (rows.keys, foreign.keys, foreign.keyScales, 16),
                    (rows.values, foreign.values, foreign.valueScales, 24),
                ] {
                    #expect(found == bytes.enumerated().map { Float(Int8(bitPattern: $1)) * scales[$0 / dim] })
                }
                // A word is added to its dimension.
                var apart = foreign
                apart.words = (0..<UInt32(Self.length * 2)).map { $0 % 3 == 0 ? 0 : Float(-96).bitPattern | $0 % 16 }
                try apart.write(to: path)
                #expect(try await cluster.tool.run("sequence", "import", path, "--name", "apart").status == 0)
                let added = try await cluster.withClient { try await Self.rows($0, "apart") }
                for (index, number) in added.keys.enumerated() {
                    let word = apart.words[index / 16], isNamed = word != 0 && Int(word % 16) == index % 16
                    #expect(number == rows.keys[index] + (isNamed ? -96 : 0))
                }
                func refused(_ words: [String], _ change: (inout Foreign) -> Void) async throws {
                    var other = foreign
                    change(&other)
                    try other.write(to: path)
                    try await cluster.tool.fails(65, saying: words, ["sequence", "import", path, "--name", "other"])
                }
                try await refused(["layers.0.k_scale"]) { $0.withScales = false }
                try await refused(["key_rotation", "another", "signs-walsh-hadamard"]) {
                    $0.metadata = ["key_rotation": "another"]
                }
                try await refused(["layers.0.k_apart", "dimension 16 of 16"]) {
                    $0.words = [UInt32](repeating: Float(8).bitPattern | 16, count: Self.length * 2)
                }
                try await refused(["NaN"]) {
                    $0.elements = .float8E4M3
                    $0.keys[5] = 0x7f
                }
                try await refused(["infinite"]) {
                    $0.valueScales[7] = .infinity
                    $0.values[7 * 24] = 1
                }
            }
        }
    }
}
