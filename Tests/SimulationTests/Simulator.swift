// SPDX-License-Identifier: Apache-2.0

import DCPTestKit
import Foundation
import Testing

/// `dcp-simulator` as a child process: it chooses its kernels for itself, and a trap in it names its seed.
enum Simulator {
    struct Outcome: Sendable {
        var status: Int32
        var data: String
        var messages: String

        func object() throws -> [String: Any] {
            try #require(try JSONSerialization.jsonObject(with: Data(data.utf8)) as? [String: Any])
        }
    }

    static func run(_ arguments: String...) async throws -> Outcome { try await run(arguments) }

    static func run(_ arguments: [String]) async throws -> Outcome {
        // On a thread of its own: it blocks, and the threads that tasks share are few.
        try await withCheckedThrowingContinuation { continuation in
            Thread.detachNewThread { continuation.resume(with: Result { try runBlocking(arguments) }) }
        }
    }

    private static func runBlocking(_ arguments: [String]) throws -> Outcome {
        let directory = TemporaryDirectory()
        let paths = (directory.path("out"), directory.path("err"))
        for path in [paths.0, paths.1] { try Data().write(to: URL(filePath: path)) }
        let process = Process()
        process.executableURL = URL(filePath: Self.directory + "/dcp-simulator")
        process.arguments = arguments
        process.environment = ProcessInfo.processInfo.environment.filter { $0.key != "DCP_KERNELS" }
        process.standardInput = FileHandle.nullDevice
        // Files and not pipes: a pipe that nobody reads yet would stop the child.
        process.standardOutput = try FileHandle(forWritingTo: URL(filePath: paths.0))
        process.standardError = try FileHandle(forWritingTo: URL(filePath: paths.1))
        try process.run()
        process.waitUntilExit()
        return Outcome(
            status: process.terminationReason == .exit ? process.terminationStatus : -process.terminationStatus,
            data: try String(contentsOfFile: paths.0, encoding: .utf8),
            messages: try String(contentsOfFile: paths.1, encoding: .utf8))
    }

    /// `DCP_BIN_DIR`, or beside the test bundle, or where `make build` puts it.
    private static let directory: String = {
        if let given = ProcessInfo.processInfo.environment["DCP_BIN_DIR"] { return given }
        let running = (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")) ?? ""
        let beside = URL(filePath: running).deletingLastPathComponent().path
        if FileManager.default.isExecutableFile(atPath: beside + "/dcp-simulator") { return beside }
        return URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent().appending(path: ".build/release").path
    }()
}
