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

    @Test("a processor is what the first entry of /proc/cpuinfo says, without what changes from start to start")
    func processor() {
        let intel = """
            processor\t: 0
            vendor_id\t: GenuineIntel
            cpu family\t: 6
            model\t\t: 143
            model name\t: Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz
            stepping\t: 8
            cpu MHz\t\t: 2699.998
            cache size\t: 107520 KB

            processor\t: 1
            vendor_id\t: AnotherOne
            """
        #expect(
            ProcessorIdentity.of(intel)
                == "vendor_id: GenuineIntel, cpu family: 6, model: 143, stepping: 8, model name: Intel(R) Xeon(R) "
                + "Platinum 8481C CPU @ 2.70GHz, cache size: 107520 KB")
        let arm = "processor\t: 0\nBogoMIPS\t: 243.75\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\n"
        #expect(ProcessorIdentity.of(arm) == "CPU implementer: 0x41, CPU part: 0xd0c")
        #expect(!ProcessorIdentity.current.isEmpty)
    }
}
