// SPDX-License-Identifier: Apache-2.0

import DCPCore
import DCPSafetensors
import DCPTestKit
import Foundation
import Testing

/// A safetensors file as bytes, from a header that need not be true.
func safetensorsBytes(_ header: String, data: [UInt8] = [], headerByteCount: UInt64? = nil) -> [UInt8] {
    let text = Array(header.utf8)
    let length = headerByteCount ?? UInt64(text.count)
    return (0..<8).map { UInt8(truncatingIfNeeded: length >> ($0 * 8)) } + text + data
}

@Suite("safetensors: reading")
struct SafetensorsReadTests {
    private let directory: TemporaryDirectory

    init() { directory = TemporaryDirectory() }

    private func open(_ bytes: [UInt8], name: String = "x.safetensors") throws -> SafetensorsFile {
        let path = directory.path(name)
        try Data(bytes).write(to: URL(filePath: path))
        return try SafetensorsFile.open(path)
    }

    @Test("a file as the Python library writes it: order by offset, padding, metadata, other dtypes, scalar, empty")
    func reads() throws {
        let header = """
            {"__metadata__":{"scale":"0.125","name":"caf\\u00e9 \\ud83d\\ude00"},\
            "k":{"dtype":"BF16","shape":[2,3],"data_offsets":[4,16]},"ids":{"dtype":"I64","shape":[1],"data_offsets":[16,24]},\
            "s":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"e":{"dtype":"F16","shape":[0,7],"data_offsets":[24,24]}}   \
            \("  ")
            """
        let data: [UInt8] = [0, 0, 0x80, 0x3f] + [0x80, 0x3f, 0, 0x40, 0, 0, 0, 0xc0, 0x80, 0x40, 0xa0, 0x40]
        let file = try open(safetensorsBytes(header, data: data + [UInt8](repeating: 7, count: 8)))
        #expect(file.metadata == ["scale": "0.125", "name": "caf\u{e9} \u{1F600}"])
        #expect(file.entries.map(\.name) == ["s", "k", "ids", "e"])
        let k = try file.tensor(named: "k")
        #expect(k.dataType == .bfloat16 && k.shape == [2, 3] && k.rowCount == 2 && k.rowByteCount == 6)
        #expect(try k.floats(rows: 0..<2) == [1, 2, 0, -2, 4, 5])
        #expect(try k.floats(rows: 1..<2) == [-2, 4, 5])
        #expect(try k.withBytes { Array($0) } == Array(data[4...]))
        #expect(try file.tensor(named: "s").floats(rows: 0..<1) == [1])
        #expect(try file.tensor(named: "e").floats(rows: 0..<0) == [])
        let refused = #expect(throws: ServiceError.self) { try file.tensor(named: "ids") }
        #expect(refused?.message.contains("tensor ids has dtype I64; convert it to F32, F16 or BF16") == true)
        let missing = #expect(throws: ServiceError.self) { try file.tensor(named: "q") }
        #expect(missing?.message.contains("has no tensor \"q\"; it has s, k, ids, e") == true)
    }

    @Test("the trace of a real model and its expected output have the shapes they are said to have")
    func fixtures() throws {
        let trace = try SafetensorsFile.open(repositoryFile("Tests/Fixtures/smollm2-trace.safetensors"))
        let expected = try SafetensorsFile.open(repositoryFile("Tests/Fixtures/smollm2-trace-expected.safetensors"))
        #expect(trace.metadata["prefill_tokens"] == "231" && trace.metadata["scale"] == "0.125")
        #expect(trace.entries.count == 9 && expected.entries.count == 6)
        for layer in 0..<3 {
            for (name, heads) in [("q", 9), ("k", 3), ("v", 3)] {
                let tensor = try trace.tensor(named: "layers.\(layer).\(name)")
                #expect(tensor.dataType == .bfloat16 && tensor.shape == [320, heads, 64])
                #expect(try tensor.firstNonFiniteValue() == nil)
            }
            let output = try expected.tensor(named: "layers.\(layer).o")
            #expect(output.dataType == .float32 && output.shape == [320, 9, 64])
            let lse = try expected.tensor(named: "layers.\(layer).lse")
            #expect(lse.dataType == .float32 && lse.shape == [320, 9])
        }
        // The first token attends to itself alone: its output is its value, to the bit.
        let first = try expected.tensor(named: "layers.0.o").floats(rows: 0..<1)
        let value = try trace.tensor(named: "layers.0.v").floats(rows: 0..<1)
        for head in 0..<9 {
            #expect(Array(first[head * 64..<head * 64 + 64]) == Array(value[head / 3 * 64..<head / 3 * 64 + 64]))
        }
    }

    struct Lie: Sendable, CustomTestStringConvertible {
        var testDescription: String
        var bytes: [UInt8]
        /// What the message must say.
        var words: String
    }

    static let lies: [Lie] = {
        func tensor(_ fields: String, data: Int = 8) -> [UInt8] {
            safetensorsBytes("{\"q\":{\(fields)}}", data: [UInt8](repeating: 0, count: data))
        }
        func two(_ a: String, _ b: String, data: Int = 8) -> [UInt8] {
            safetensorsBytes(
                "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":\(a)},"
                    + "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":\(b)}}",
                data: [UInt8](repeating: 0, count: data))
        }
        let good = #""dtype":"F32","shape":[2],"data_offsets":[0,8]"#
        var lies: [(String, [UInt8], String)] = [
            ("empty file", [], "has 0 bytes"),
            ("7 bytes", [1, 0, 0, 0, 0, 0, 0], "has 7 bytes"),
            ("header longer than the file", safetensorsBytes("{}", headerByteCount: 3), "3 bytes, but only 2 follow"),
            ("header over the limit", safetensorsBytes("{}", headerByteCount: 100_000_001), "limit of 100000000"),
            ("header of 2^64 - 1 bytes", safetensorsBytes("{}", headerByteCount: .max), "18446744073709551615"),
            ("header of 2^63 bytes", safetensorsBytes("{}", headerByteCount: 1 << 63), "9223372036854775808"),
            ("no header", safetensorsBytes(""), "the header ends inside a value"),
            ("not JSON", safetensorsBytes("hello"), "not a JSON value"),
            ("an array", safetensorsBytes("[]"), "not a JSON object"),
            ("cut JSON", safetensorsBytes("{\"q\":{"), "expected"),
            ("two objects", safetensorsBytes("{}{}"), "something follows"),
            ("a trailing comma", safetensorsBytes("{\"a\":{},}"), "expected"),
            ("a raw line feed in a name", safetensorsBytes("{\"a\nb\":{}}"), "control character"),
            ("half a surrogate", safetensorsBytes(#"{"\ud800":{}}"#), "surrogate"),
            ("a low surrogate alone", safetensorsBytes(#"{"\udc00":{}}"#), "surrogate"),
            ("an unknown escape", safetensorsBytes(#"{"\x":{}}"#), "unknown escape"),
            ("deep nesting", safetensorsBytes(String(repeating: "[", count: 100_000)), "deeper than 8"),
            ("a name twice", safetensorsBytes("{\"q\":{\(good)},\"q\":{\(good)}}", data: [0]), "\"q\" occurs twice"),
            ("a field twice", tensor(good + ",\"dtype\":\"F32\""), "\"dtype\" occurs twice"),
            ("metadata no object", safetensorsBytes(#"{"__metadata__":[]}"#), "__metadata__"),
            ("metadata no string", safetensorsBytes(#"{"__metadata__":{"scale":1}}"#), "\"scale\" is not a string"),
            ("a tensor that is null", safetensorsBytes("{\"q\":null}"), "tensor \"q\" is not described"),
            ("no dtype", tensor(#""shape":[2],"data_offsets":[0,8]"#), "tensor \"q\" has no dtype"),
            ("no shape", tensor(#""dtype":"F32","data_offsets":[0,8]"#), "has no shape"),
            ("no offsets", tensor(#""dtype":"F32","shape":[2]"#), "has no data_offsets"),
            ("unknown dtype", tensor(#""dtype":"F128","shape":[2],"data_offsets":[0,8]"#), "the dtype \"F128\""),
            ("dtype a number", tensor(#""dtype":3,"shape":[2],"data_offsets":[0,8]"#), "a dtype that is not a string"),
            ("negative dimension", tensor(#""dtype":"F32","shape":[-2],"data_offsets":[0,8]"#), "has -2 in its shape"),
            ("a fraction", tensor(#""dtype":"F32","shape":[2.0],"data_offsets":[0,8]"#), "has 2.0 in its shape"),
            ("an exponent", tensor(#""dtype":"F32","shape":[2e0],"data_offsets":[0,8]"#), "has 2e0 in its shape"),
            ("a word as dimension", tensor(#""dtype":"F32","shape":["2"],"data_offsets":[0,8]"#), "is not a number"),
            (
                "17 dimensions",
                tensor(#""dtype":"F32","shape":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1],"data_offsets":[0,4]"#), "at most 16"
            ),
            (
                "dimension over 2^63", tensor(#""dtype":"F32","shape":[9223372036854775808],"data_offsets":[0,8]"#),
                "922"
            ),
            (
                "product overflow", tensor(#""dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]"#),
                "no size"
            ),
            (
                "product overflow in bits", tensor(#""dtype":"F32","shape":[576460752303423488],"data_offsets":[0,8]"#),
                "no size"
            ),
            (
                "half a byte", tensor(#""dtype":"F4","shape":[3],"data_offsets":[0,1]"#, data: 1),
                "no size in whole bytes"
            ),
            ("offsets backwards", tensor(#""dtype":"F32","shape":[2],"data_offsets":[8,0]"#), "lies at [8, 0]"),
            (
                "negative offset", tensor(#""dtype":"F32","shape":[2],"data_offsets":[-8,0]"#),
                "has -8 in its data_offsets"
            ),
            ("three offsets", tensor(#""dtype":"F32","shape":[2],"data_offsets":[0,8,8]"#), "at most 2"),
            ("one offset", tensor(#""dtype":"F32","shape":[2],"data_offsets":[0]"#), "lies at [0]"),
            ("offsets outside", tensor(#""dtype":"F32","shape":[4],"data_offsets":[0,16]"#), "[0, 16] of 8 data bytes"),
            ("data truncated", tensor(good, data: 7), "[0, 8] of 7 data bytes"),
            ("shape does not match", tensor(#""dtype":"F32","shape":[3],"data_offsets":[0,8]"#), "needs 12 bytes"),
            ("overlap", two("[0,4]", "[2,6]", data: 6), "tensor \"b\" starts at data byte 2 and overlaps"),
            ("the same bytes twice", two("[0,4]", "[0,4]", data: 4), "overlaps"),
            ("hole", two("[0,4]", "[6,10]", data: 10), "leaves a hole"),
            ("hole at the start", tensor(#""dtype":"F32","shape":[1],"data_offsets":[4,8]"#), "leaves a hole"),
            ("bytes left over", tensor(good, data: 9), "the tensors end at data byte 8"),
        ]
        var invalid = safetensorsBytes("{\"x\":{}}")
        invalid[10] = 0xff
        lies.append(("invalid UTF-8", invalid, "not valid UTF-8"))
        let many = (0...100_000).map { "\"\($0)\":0" }.joined(separator: ",")
        lies.append(("too many tensors", safetensorsBytes("{\(many)}"), "more than 100000 members"))
        return lies.map { Lie(testDescription: $0.0, bytes: $0.1, words: $0.2) }
    }()

    @Test("a lie is refused, naming file and value", arguments: lies)
    func refuses(lie: Lie) throws {
        let error = #expect(throws: ServiceError.self) { try open(lie.bytes, name: "lie.safetensors") }
        #expect(error?.code == .invalidRequest)
        #expect(error?.message.contains("lie.safetensors") == true, "\(error?.message ?? "")")
        #expect(error?.message.contains(lie.words) == true, "\(error?.message ?? "")")
    }

    @Test("a missing file, a directory and a pipe are refused, and the pipe does not block")
    func notAFile() throws {
        let pipe = directory.path("pipe")
        #expect(mkfifo(pipe, 0o600) == 0)
        for path in [directory.path("none"), directory.path, pipe, "a\u{0}b"] {
            let error = #expect(throws: ServiceError.self) { try SafetensorsFile.open(path) }
            #expect(error?.code == .invalidRequest)
        }
    }

    @Test("a file that is truncated while it is open is an error, not a signal")
    func truncatedLater() throws {
        let file = try open(
            safetensorsBytes(
                #"{"q":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}"#, data: [UInt8](repeating: 1, count: 16)))
        #expect(truncate(file.path, 70) == 0)
        let error = #expect(throws: ServiceError.self) { try file.tensor(named: "q").withBytes { $0.count } }
        #expect(error?.message.contains("ended at byte 70") == true)
    }

    @Test("any damage to a file is an error or another valid file, never a crash or a read outside it")
    func fuzz() throws {
        let given = ProcessInfo.processInfo.environment["DCP_TEST_SEED"] ?? ""
        let seed = UInt64(given) ?? UInt64.random(in: 0...UInt64.max)
        print("safetensors fuzz: DCP_TEST_SEED=\(seed)")
        var random = SeededGenerator(seed: seed)
        let header = """
            {"__metadata__":{"a":"b\\u00e9"},"q":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},\
            "k":{"dtype":"BF16","shape":[3],"data_offsets":[16,22]},"v":{"dtype":"F16","shape":[1],"data_offsets":[22,24]}}
            """
        let original = safetensorsBytes(header, data: (0..<24).map { UInt8($0) })
        var opened = 0
        for _ in 0..<4000 {
            var bytes = original
            for _ in 0..<Int.random(in: 1...4, using: &random) {
                let place = Int.random(in: 0..<max(bytes.count, 1), using: &random)
                switch Int.random(in: 0..<5, using: &random) {
                case 0 where !bytes.isEmpty: bytes[place] ^= 1 << UInt8.random(in: 0..<8, using: &random)
                case 1 where !bytes.isEmpty: bytes[place] = UInt8.random(in: 0...255, using: &random)
                case 2: bytes.removeSubrange(min(place, bytes.count)...)
                case 3 where !bytes.isEmpty: bytes.remove(at: place)
                default: bytes.insert(UInt8(ascii: "0") + UInt8.random(in: 0..<10, using: &random), at: place)
                }
            }
            do {
                let file = try open(bytes, name: "fuzz.safetensors")
                opened += 1
                for entry in file.entries where entry.dataType.rowDataType != nil {
                    let tensor = try file.tensor(named: entry.name)
                    #expect(try tensor.withBytes { $0.count } <= bytes.count - 8, "seed \(seed)")
                    _ = try tensor.firstNonFiniteValue()
                }
            } catch let error as ServiceError {
                #expect(error.code == .invalidRequest, "seed \(seed): \(error)")
            }
        }
        // Damage to the tensors' bytes alone leaves a valid file: the loop has seen both sides.
        #expect(opened > 0 && opened < 4000, "seed \(seed)")
    }
}
