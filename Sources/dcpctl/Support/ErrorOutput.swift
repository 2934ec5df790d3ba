// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import DCPConsole
import DCPCore
import Glibc

/// The error output of a command: a line for people, or with `--json` a line of JSON, the last one on standard error.
enum ErrorOutput {
    struct View: Encodable {
        struct Failure: Encodable {
            var code: String
            var number: UInt16
            var message: String
            var isRetryable: Bool
            var rank: Int?
            var exitStatus: Int32
        }

        var error: Failure
    }

    /// Whether the command line asks for JSON; also one that cannot be parsed.
    private static let isJSON = CommandLine.arguments.dropFirst().prefix { $0 != "--" }.contains("--json")

    static func print(_ error: ServiceError) {
        guard isJSON else { return printMessage("\(error)") }
        let failure = View.Failure(
            code: "\(error.code)".replacing(" ", with: "_"), number: error.code.rawValue, message: error.message,
            isRetryable: error.isRetryable, rank: error.rank.map { Int($0.value) },
            exitStatus: ExitStatus(error).rawValue)
        do throws(ServiceError) { printLine(try JSONOutput.line(View(error: failure))) } catch {
            printMessage("\(error)")
        }
    }

    /// A command line that is wrong, as the parser says it.
    static func printUsage(_ message: String) {
        guard isJSON else { return printLine(message) }
        print(ServiceError(.invalidConfiguration, message))
    }

    static func printLine(_ text: String) {
        let bytes = Array("\(text)\n".utf8)
        _ = write(STDERR_FILENO, bytes, bytes.count)
    }
}
