// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPLocalCluster
internal import Foundation

/// The Python client in a separate process: on request it sends a step at the end of its own sequence, and reports the
/// duration.
///
/// Its sequence is a fork of the benchmark's: the blocks that ranks read are the same.
final class PythonTwin: Sendable {
    static let sequence = "benchmark-python"

    private let process: Process
    private let commands: Pipe
    private let answers: Pipe

    /// - Parameter interpreter: one that has the package `dcp_attention`.
    /// - Throws: `.invalidConfiguration` when it does not start, or does not come to its first step.
    init(
        _ interpreter: String, _ local: LocalCluster, count: Int, queries: QueryKind
    ) throws(ServiceError) {
        (process, commands, answers) = (Process(), Pipe(), Pipe())
        process.executableURL = URL(filePath: interpreter)
        process.arguments = [
            "-m", "dcp_attention.bench", "--coordinator", local.coordinatorEndpoint, "--sequence", Self.sequence,
            "--count", "\(count)", "--queries", queries.rawValue,
        ]
        process.standardInput = commands
        process.standardOutput = answers
        do {
            try process.run()
        } catch {
            throw ServiceError(
                .invalidConfiguration,
                "\(interpreter) does not start (\(error.localizedDescription)); give --python the path of an interpreter, "
                    + "such as .build/python/bin/python.")
        }
        guard let line = nextLine(), line == "ready" else {
            throw ServiceError(
                .invalidConfiguration,
                "\(interpreter) did not reach its first step; see its error above. Is dcp_attention installed there?")
        }
    }

    /// Has a step sent, and waits for its answer. Blocks.
    /// - Returns: seconds, at that client.
    func step() throws(ServiceError) -> Double {
        commands.fileHandleForWriting.write(Data("step\n".utf8))
        guard let line = nextLine(), let seconds = Double(line) else {
            throw ServiceError(.internal, "The Python client ended during the steps; see its error above.")
        }
        return seconds
    }

    private func nextLine() -> String? {
        var line: [UInt8] = []
        var byte: UInt8 = 0
        while read(answers.fileHandleForReading.fileDescriptor, &byte, 1) == 1 {
            if byte == UInt8(ascii: "\n") { return String(decoding: line, as: UTF8.self) }
            line.append(byte)
        }
        return nil
    }

    /// It ends when nothing more can come on its standard input.
    deinit {
        try? commands.fileHandleForWriting.close()
        process.waitUntilExit()
    }
}
