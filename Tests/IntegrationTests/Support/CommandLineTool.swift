// SPDX-License-Identifier: Apache-2.0

import DCPAttention
import DCPLocalCluster
import DCPTestKit
import Foundation
import Testing

/// `dcpctl` as a child process.
struct CommandLineTool: Sendable {
    /// What `DCP_COORDINATOR` is for it; nil leaves it unset.
    var coordinator: String?
    var environment: [String: String] = [:]
    /// One of the products, or a path.
    var executable = "dcpctl"

    struct Outcome: Sendable {
        var status: Int32
        /// Standard output.
        var data: String
        /// Standard error.
        var messages: String

        /// Standard output as JSON.
        func json() throws -> Any {
            try JSONSerialization.jsonObject(with: Data(data.utf8), options: .fragmentsAllowed)
        }

        func object() throws -> [String: Any] { try #require(try json() as? [String: Any]) }
        func list() throws -> [[String: Any]] { try #require(try json() as? [[String: Any]]) }
    }

    @discardableResult
    func run(_ arguments: String...) async throws -> Outcome { try await run(arguments) }

    func run(_ arguments: [String]) async throws -> Outcome {
        let (coordinator, extra, executable) = (coordinator, environment, executable)
        return try await onOwnThread {
            // Files and not pipes: a pipe that nobody reads yet would stop the child.
            let directory = TemporaryDirectory()
            let paths = (directory.path("out"), directory.path("err"))
            for path in [paths.0, paths.1] { try Data().write(to: URL(filePath: path)) }
            let process = Process()
            process.executableURL = URL(
                filePath: executable.hasPrefix("/") ? executable : Binaries.directory + "/" + executable)
            process.arguments = arguments
            var environment = ProcessInfo.processInfo.environment
            environment["DCP_COORDINATOR"] = coordinator
            environment[Prefetch.variable] = "\(Prefetch.first)"
            for (name, value) in extra { environment[name] = value }
            process.environment = environment
            process.standardInput = FileHandle.nullDevice
            process.standardOutput = try FileHandle(forWritingTo: URL(filePath: paths.0))
            process.standardError = try FileHandle(forWritingTo: URL(filePath: paths.1))
            try process.run()
            process.waitUntilExit()
            return Outcome(
                status: process.terminationReason == .exit ? process.terminationStatus : -process.terminationStatus,
                data: try String(contentsOfFile: paths.0, encoding: .utf8),
                messages: try String(contentsOfFile: paths.1, encoding: .utf8))
        }
    }

    /// Runs a command that must fail: nothing on standard output, a message with each of the words on standard error.
    func fails(
        _ status: Int32, saying words: [String], _ arguments: [String],
        sourceLocation: SourceLocation = #_sourceLocation
    ) async throws {
        let outcome = try await run(arguments)
        #expect(outcome.status == status, "\(arguments): \(outcome.messages)", sourceLocation: sourceLocation)
        #expect(outcome.data.isEmpty, "\(arguments) printed data", sourceLocation: sourceLocation)
        for word in words {
            #expect(
                outcome.messages.contains(word), "\(arguments) should say \(word): \(outcome.messages)",
                sourceLocation: sourceLocation)
        }
    }
}

extension TestCluster {
    var tool: CommandLineTool { CommandLineTool(coordinator: local.coordinatorEndpoint) }
}
