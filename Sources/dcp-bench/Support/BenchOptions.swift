// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import DCPAttention
import DCPBench
import DCPConsole
import DCPCore
import Foundation
import Glibc

/// The options of every measurement.
struct BenchOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "Number of runs. Default: as many as give a steady median within a few seconds.",
            valueName: "count"))
    var runs: Int?

    @Option(help: "Seed for keys, values and queries.")
    var seed: UInt64 = 1

    @Option(
        help: ArgumentHelp(
            "Parent of the temporary directory for stores. Default: $TMPDIR, then /var/tmp.",
            valueName: "directory"))
    var dir: String?

    @Flag(help: "Print JSON instead of a table.")
    var json = false

    @Option(help: ArgumentHelp("Also plot the figures beside their ceilings.", valueName: "file.svg"))
    var plot: String?

    func validate() throws {
        if let runs, !(1...100_000).contains(runs) {
            throw ValidationError("\(runs) runs are outside 1...100000; correct --runs.")
        }
    }

    /// A whole command: measures, prints, and ends with its exit status.
    /// - Parameter attends: whether this process computes attention, so that it finds out first how kernels prefetch here.
    func execute(
        _ benchmark: String, _ parameters: [String: String], notMeasured: [String], attends: Bool = false,
        _ measure: @escaping @Sendable (Bench) async throws -> [Finding]
    ) async throws {
        try await dcp_bench.execute {
            try KernelSelection.check()
            try checkPlot()
            if let forced = try Prefetch.forced() {
                PrefetchTable.current = PrefetchTable(forced)
            } else if attends {
                PrefetchTable.current = try PrefetchTrials.runAll().table
            }
            let directory = try ScratchDirectory(in: dir)
            let interruption = Interruption()
            let bench = Bench(
                repetition: Repetition(runs: runs), seed: seed, directory: directory, interruption: interruption,
                progress: { printMessage($0) })
            var parameters = parameters
            parameters["runs"] = runs.map { "\($0)" } ?? "default"
            var report = Report(
                benchmark, parameters: parameters, seed: seed, directory: directory.path, notMeasured: notMeasured)
            do {
                report.results = try await interruptible(interruption) { try await measure(bench) }
            } catch {
                // The measurement's own failure is the news.
                try? directory.remove()
                throw error
            }
            try directory.remove()
            try print(report)
        }
    }

    /// Before minutes of measuring, not after.
    private func checkPlot() throws(ServiceError) {
        guard let plot else { return }
        guard plot != "-" else {
            throw ServiceError(
                .invalidConfiguration, "--plot writes a file, and standard output has the table; name a file.")
        }
        let parent = URL(filePath: plot).deletingLastPathComponent().path
        guard access(parent, W_OK) == 0 else {
            throw ServiceError(
                .invalidConfiguration,
                "\(plot) cannot be written: \(String(cString: strerror(errno))). Choose another --plot.")
        }
    }

    private func print(_ report: Report) throws {
        if let plot {
            do { try report.svg.write(toFile: plot, atomically: true, encoding: .utf8) } catch {
                throw ServiceError(
                    .invalidConfiguration,
                    "\(plot) cannot be written: \(error.localizedDescription) Choose another --plot.")
            }
        }
        if json {
            try StandardOutput.write(try JSONOutput.string(report))
        } else {
            try StandardOutput.write(report.table + "\n")
        }
        for note in report.notes { printMessage(note) }
        if let plot { printMessage("The plot is in \(plot).") }
    }
}

/// The options that say what attention is measured.
struct ShapeOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "HqxHkvxD or HqxHkvxDkxDv, or llama-8b, llama-70b, smollm2-135m; separate several by commas. Default: "
                + "32x8x128.",
            valueName: "shapes"))
    var shape: String = "32x8x128"

    @Option(help: ArgumentHelp("Compute threads; separate several by commas.", valueName: "counts"))
    var threads: String = "1"

    @Option(
        help: ArgumentHelp(
            "What the KV cache keeps: \(CacheFormat.names); separate several by commas.", valueName: "formats"))
    var kvFormat: String = "bf16"

    func shapes() throws(ServiceError) -> [AttentionShape] { try Lists.shapes(shape) }
    func formats() throws(ServiceError) -> [CacheFormat] { try Lists.formats(kvFormat) }
    func threadCounts() throws(ServiceError) -> [Int] {
        try Lists.counts(threads, option: "--threads", in: 1...1024)
    }

    var parameters: [String: String] { ["shape": shape, "threads": threads, "kv_format": kvFormat] }

    /// The longest context that a command takes.
    static let contexts = 1...(64 << 20)
    static let counts = 1...65536
}
