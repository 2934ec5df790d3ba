// SPDX-License-Identifier: Apache-2.0

import DCPAttention
import DCPDaemon
import DCPTestKit
import Foundation
import Testing

@Suite("how kernels prefetch, kept beside a store")
struct PrefetchFileTests {
    private static let trials = PrefetchTrials(
        PrefetchTable.Work.tried.enumerated().map { index, work in
            PrefetchTrials.Trial(
                format: work.format, rows: work.rows, chosen: Prefetch.candidates[index % 3],
                gigabytesPerSecond: Dictionary(
                    uniqueKeysWithValues: Prefetch.candidates.enumerated().map { ($1, Double(10 * index + $0)) }))
        })

    @Test("the file is used only by the same processor with the same kernels")
    func kept() throws {
        let directory = TemporaryDirectory()
        let file = PrefetchFile(store: directory.path, processor: "one", kernels: "avx2")
        #expect(file.read() == nil)
        try file.write(Self.trials)
        #expect(file.read() == Self.trials)
        #expect(PrefetchFile(store: directory.path, processor: "another", kernels: "avx2").read() == nil)
        #expect(PrefetchFile(store: directory.path, processor: "one", kernels: "avx512").read() == nil)
    }

    @Test("a file that is damaged or of another version is as good as none; one of some kinds of work tells of these")
    func damaged() throws {
        let directory = TemporaryDirectory()
        let file = PrefetchFile(store: directory.path, processor: "one", kernels: "avx2")
        let path = directory.path(PrefetchFile.name)
        try file.write(Self.trials)
        let text = try String(contentsOfFile: path, encoding: .utf8)
        for (part, other) in [("{", "["), ("\"version\" : 1", "\"version\" : 2"), ("\"bf16\"", "\"bf17\"")] {
            try #require(text.contains(part))
            try text.replacingOccurrences(of: part, with: other).write(toFile: path, atomically: true, encoding: .utf8)
            #expect(file.read() == nil, "\(other)")
        }
        let some = PrefetchTrials(Array(Self.trials.trials.dropLast()))
        try file.write(some)
        #expect(file.read() == some && !some.areComplete && Self.trials.areComplete)
    }

    @Test("a processor is its kind and its caches, as /sys says, without what depends on the kernel")
    func processor() throws {
        let directory = TemporaryDirectory()
        func write(_ text: String, _ path: String) throws {
            let url = URL(fileURLWithPath: directory.path(path))
            try FileManager.default.createDirectory(
                at: url.deletingLastPathComponent(), withIntermediateDirectories: true)
            try text.write(to: url, atomically: true, encoding: .utf8)
        }
        #expect(ProcessorIdentity.of(directory.path) == "")
        try write("cpu:type:x86,ven0000fam0006mod008F:feature:,0000,0001\n", "modalias")
        try write("48K\n", "cpu0/cache/index0/size")
        try write("107520K\n", "cpu0/cache/index3/size")
        #expect(ProcessorIdentity.of(directory.path) == "cpu:type:x86,ven0000fam0006mod008F 48K 107520K")
        try write("cpu:type:aarch64:feature:,0000\n", "modalias")
        try write("0x00000000410fd0c0\n", "cpu0/regs/identification/midr_el1")
        #expect(
            ProcessorIdentity.of(directory.path) == "cpu:type:aarch64 0x00000000410fd0c0 48K 107520K")
        #expect(!ProcessorIdentity.current.isEmpty)
    }

    @Test("what is measured on a processor that is not known is used by no other start")
    func unknown() throws {
        let directory = TemporaryDirectory()
        let file = PrefetchFile(store: directory.path, processor: "", kernels: "avx2")
        try file.write(Self.trials)
        #expect(file.read() == nil)
    }
}
