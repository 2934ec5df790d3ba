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
            // A reader of messages that goes away must not leave gigabytes behind.
            signal(SIGPIPE, SIG_IGN)
            let directory = try ScratchDirectory(in: dir)
            let interruption = Interruption()
            let bench = Bench(
                repetition: Repetition(runs: runs), seed: seed, directory: directory, interruption: interruption,
                progress: { printMessage($0) })
            var parameters = parameters
            parameters["runs"] = runs.map { "\($0)" } ?? "default"
            var report = Report(
                benchmark, parameters: parameters, seed: seed, directory: directory.path, notMeasured: notMeasured)
            if !attends { report.kernels.prefetch = nil }
            do {
                report.results = try await interruptible(interruption) { try await measure(bench) }
                // The figures first: what fails after them costs no minutes.
                try print(report)
                try writePlot(of: report)
            } catch {
                // The measurement's own failure is the news.
                try? directory.remove()
                throw error
            }
            try directory.remove()
        }
    }

    /// Before minutes of measuring, not after.
    private func checkPlot() throws(ServiceError) {
        guard let plot else { return }
        guard plot != "-" else {
            throw ServiceError(
                .invalidConfiguration, "--plot writes a file, and standard output has the table; name a file.")
        }
        let failure = Self.plotFailure(plot)
        guard failure == 0 else {
            throw ServiceError(
                .invalidConfiguration,
                "\(plot.isEmpty ? "An empty path" : plot) cannot be written: \(String(cString: strerror(failure))). "
                    + "Choose another --plot.")
        }
    }

    /// The error number that writing a plot would end with; 0 for none that is known.
    private static func plotFailure(_ path: String) -> Int32 {
        guard !path.isEmpty else { return ENOENT }
        // With the slash it is no file.
        guard access(URL(filePath: path).deletingLastPathComponent().path + "/", W_OK) == 0 else { return errno }
        var status = stat()
        guard stat(path, &status) == 0 else { return 0 }
        // A file is replaced, and so would be a device.
        return switch status.st_mode & S_IFMT {
        case S_IFREG: 0
        case S_IFDIR: EISDIR
        default: EINVAL
        }
    }

    private func writePlot(of report: Report) throws {
        guard let plot else { return }
        do { try report.svg.write(toFile: plot, atomically: true, encoding: .utf8) } catch {
            throw ServiceError(
                .invalidConfiguration,
                "\(plot) cannot be written: \(error.localizedDescription) Choose another --plot.")
        }
        printMessage("The plot is in \(plot).")
    }

    private func print(_ report: Report) throws {
        if json {
            try StandardOutput.write(try JSONOutput.string(report))
        } else {
            try StandardOutput.write(report.table + "\n")
        }
        for note in report.notes { printMessage(note) }
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
