// SPDX-License-Identifier: Apache-2.0

import DCPCore
import DCPSafetensors
import DCPTestKit
import Foundation
import Testing

@Suite("safetensors: writing and values")
struct SafetensorsWriteTests {
    private let directory: TemporaryDirectory

    init() { directory = TemporaryDirectory() }

    @Test("written files are read back: tensors appended in any order, metadata, names that need escapes")
    func roundTrip() throws {
        let path = directory.path("out.safetensors")
        let name = "layers.\"0\"\\\n\u{1}\u{e9}"
        let writer = try SafetensorsWriter(
            path: path,
            tensors: [
                .init(name: "half", dataType: .bfloat16, shape: [3]),
                .init(name: name, dataType: .float32, shape: [2, 2]),
                .init(name: "lse", dataType: .float32, shape: [2]),
                .init(name: "none", dataType: .float16, shape: [0, 4]),
            ], metadata: ["model": "m\t1", "scale": "0.125"])
        try writer.append([1, 2], to: name)
        try writer.append([-.infinity], to: "lse")
        try writer.append([3, 4], to: name)
        try [UInt16](arrayLiteral: 0x3f80, 0x4000, 0xc040).withUnsafeBytes { try writer.append($0, to: "half") }
        try writer.append([5], to: "lse")
        #expect(FileManager.default.fileExists(atPath: path) == false)
        try writer.finish()
        #expect(try directory.contents() == ["out.safetensors"])

        let file = try SafetensorsFile.open(path)
        #expect(file.metadata == ["model": "m\t1", "scale": "0.125"])
        #expect(file.entries.map(\.name) == [name, "lse", "half", "none"])
        #expect(try file.tensor(named: name).floats(rows: 0..<2) == [1, 2, 3, 4])
        #expect(try file.tensor(named: "lse").floats(rows: 0..<2) == [-.infinity, 5])
        #expect(try file.tensor(named: "half").floats(rows: 0..<3) == [1, 2, -3])
        let bytes = try Data(contentsOf: URL(filePath: path))
        #expect(bytes[0] % 8 == 0 && bytes[8] == UInt8(ascii: "{"))
    }

    @Test("the header is byte for byte as the format says")
    func headerBytes() throws {
        let path = directory.path("out.safetensors")
        let writer = try SafetensorsWriter(
            path: path, tensors: [.init(name: "o", dataType: .float32, shape: [1])], metadata: ["a": "b"])
        try writer.append([1], to: "o")
        try writer.finish()
        let text = #"{"__metadata__":{"a":"b"},"o":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#
        let padded = text + String(repeating: " ", count: (8 - text.utf8.count % 8) % 8)
        #expect(
            Array(try Data(contentsOf: URL(filePath: path))) == safetensorsBytes(padded, data: [0, 0, 0x80, 0x3f]))
    }

    @Test("a writer that is dropped, or finished too early, leaves what was there and no half file")
    func abandoned() throws {
        let path = directory.path("out.safetensors")
        try Data("before".utf8).write(to: URL(filePath: path))
        do {
            let writer = try SafetensorsWriter(path: path, tensors: [.init(name: "o", dataType: .float32, shape: [2])])
            try writer.append([1], to: "o")
            let error = #expect(throws: ServiceError.self) { try writer.finish() }
            #expect(error?.message.contains("tensor \"o\" has 4 of its 8 bytes") == true)
        }
        #expect(try directory.contents() == ["out.safetensors"])
        #expect(try Data(contentsOf: URL(filePath: path)) == Data("before".utf8))
    }

    @Test("too many bytes, an undeclared name, a name twice, a reserved one and a shape without size are refused")
    func refusals() throws {
        let path = directory.path("out.safetensors")
        let writer = try SafetensorsWriter(path: path, tensors: [.init(name: "o", dataType: .float32, shape: [2])])
        #expect(throws: ServiceError.self) { try writer.append([1, 2, 3], to: "o") }
        #expect(throws: ServiceError.self) { try writer.append([1], to: "p") }
        try writer.append([1, 2], to: "o")
        try writer.finish()
        for declarations: [SafetensorsWriter.Declaration] in [
            [.init(name: "o", dataType: .float32, shape: [1]), .init(name: "o", dataType: .float16, shape: [1])],
            [.init(name: "__metadata__", dataType: .float32, shape: [1])],
            [.init(name: "o", dataType: .float32, shape: [-1])],
            [.init(name: "o", dataType: .float32, shape: [.max, 2])],
            // 2^63 - 8 bytes, and a header.
            (0..<8).map { SafetensorsWriter.Declaration(name: "\($0)", elements: .uint8, shape: [1 << 60 - 1]) },
        ] {
            let error = #expect(throws: ServiceError.self) { try SafetensorsWriter(path: path, tensors: declarations) }
            #expect(error?.code == .invalidRequest)
        }
        #expect(throws: ServiceError.self) {
            try SafetensorsWriter(path: directory.path("no/such/out"), tensors: [])
        }
        #expect(try directory.contents() == ["out.safetensors"])
    }

    @Test("a path that no file can take is refused before anything is written: a directory, a device, no name")
    func noPlace() throws {
        let path = directory.path("taken")
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: false)
        for (place, word) in [(path, "is a directory"), (path + "/", "is a directory"), ("/dev/null", "regular file")] {
            let error = #expect(throws: ServiceError.self) { try SafetensorsWriter(path: place, tensors: []) }
            #expect(error?.message.contains(word) == true, "\(String(describing: error))")
        }
        #expect(try directory.contents() == ["taken"])
        #expect(try FileManager.default.contentsOfDirectory(atPath: path).isEmpty)
    }

    @Test("the next writer of the same name removes a killed writer's file; others' and a live one's stay")
    func abandonedFiles() throws {
        let path = directory.path("o.safetensors")
        let dead = ".o.safetensors.1-a.partial"
        // Of another file, and of somebody else.
        let others = [
            ".o.safetensors.x.1-a.partial", ".o.safetensors.mine.partial", ".o.safetensors.1-a-b.partial",
            ".o.safetensors.-a.partial", ".o.safetensors.1-.partial", ".o.safetensors.1-A.partial",
        ]
        for name in [dead] + others { try Data("half".utf8).write(to: URL(filePath: directory.path(name))) }
        let first = try SafetensorsWriter(path: path, tensors: [.init(name: "o", dataType: .float32, shape: [1])])
        let second = try SafetensorsWriter(path: path, tensors: [.init(name: "o", dataType: .float32, shape: [1])])
        let names = try directory.contents()
        #expect(names.count == 2 + others.count && !names.contains(dead), "\(names)")
        #expect(Set(names).isSuperset(of: others), "\(names)")
        for writer in [first, second] {
            try writer.append([1], to: "o")
            try writer.finish()
        }
        #expect(try Set(directory.contents()) == Set(others + ["o.safetensors"]))
    }

    @Test("names of tensors are bytes: equal in Unicode and unequal in bytes are two")
    func namesAreBytes() throws {
        let path = directory.path("out.safetensors")
        let (composed, decomposed) = ("caf\u{e9}", "cafe\u{301}")
        let writer = try SafetensorsWriter(
            path: path,
            tensors: [
                .init(name: composed, dataType: .float32, shape: [1]),
                .init(name: decomposed, dataType: .float32, shape: [1]),
            ])
        try writer.append([1], to: composed)
        try writer.append([2], to: decomposed)
        try writer.finish()
        let file = try SafetensorsFile.open(path)
        #expect(file.entries.count == 2)
        #expect(try file.tensor(named: composed).floats(rows: 0..<1) == [1])
        #expect(try file.tensor(named: decomposed).floats(rows: 0..<1) == [2])
    }

    @Test("a write that the system refuses is an error that names the remedy, and leaves no half file")
    func writeFails() async {
        // In a separate process: the size limit that stands in for a full disk would otherwise apply to all tests.
        await #expect(processExitsWith: .success) {
            let directory = TemporaryDirectory()
            signal(SIGXFSZ, SIG_IGN)
            var limit = rlimit(rlim_cur: 4096, rlim_max: 4096)
            #expect(setrlimit(__rlimit_resource_t(RLIMIT_FSIZE.rawValue), &limit) == 0)
            do {
                // Before the first byte: the space is reserved.
                let error = #expect(throws: ServiceError.self) {
                    try SafetensorsWriter(
                        path: directory.path("out"), tensors: [.init(name: "o", dataType: .float32, shape: [2000])])
                }
                #expect(error?.message.contains("Free space or choose another path") == true)
            }
            let left = try directory.contents()
            #expect(left == [])
        }
    }

    @Test("the first value that is not finite is found with its index, in every dtype", arguments: DataType.allCases)
    func nonFinite(dataType: DataType) throws {
        let path = directory.path("\(dataType.name).safetensors")
        // More than one piece of the reader's, so that the index is right across the border.
        let shape = [9, 200, 500]
        let count = shape.reduce(1, *)
        let place = (7 * 200 + 123) * 500 + 77
        let patterns: (nan: [UInt8], infinity: [UInt8]) =
            switch dataType {
            case .bfloat16: ([0xc0, 0x7f], [0x80, 0xff])
            case .float16: ([0x00, 0x7e], [0x00, 0xfc])
            case .float32: ([0, 0, 0xc0, 0x7f], [0, 0, 0x80, 0xff])
            }
        for (pattern, word) in [(patterns.nan, "NaN"), (patterns.infinity, "-infinity")] {
            var bytes = [UInt8](repeating: 0x11, count: count * dataType.byteCount)
            bytes.replaceSubrange(place * dataType.byteCount..<(place + 1) * dataType.byteCount, with: pattern)
            let writer = try SafetensorsWriter(
                path: path, tensors: [.init(name: "layers.1.k", dataType: dataType, shape: shape)])
            try bytes.withUnsafeBytes { try writer.append($0, to: "layers.1.k") }
            try writer.finish()
            let found = try SafetensorsFile.open(path).tensor(named: "layers.1.k").firstNonFiniteValue()
            #expect(found?.description == "layers.1.k[7, 123, 77] is \(word)")
        }
    }
}
