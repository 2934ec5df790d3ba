import DCPCache
import DCPCore
import DCPTestKit
import Foundation
import Testing

/// The child process of the tests; see `Tests/Support/cache-crasher`.
final class Crasher {
    let process = Process()
    private let output = Pipe()
    private let input = Pipe()
    private var buffer = Data()

    init(_ arguments: String...) throws {
        // Executables stand beside the test bundle.
        let own = try FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")
        let beside = URL(fileURLWithPath: own).deletingLastPathComponent().appendingPathComponent("cache-crasher")
        process.executableURL = beside
        process.arguments = arguments
        process.standardOutput = output
        process.standardInput = input
        try process.run()
    }

    /// The next whole line, or nil at the end.
    func line() -> String? {
        while true {
            if let end = buffer.firstIndex(of: 10) {
                let line = String(decoding: buffer[buffer.startIndex..<end], as: UTF8.self)
                buffer = Data(buffer[(end + 1)...])
                return line
            }
            let more = output.fileHandleForReading.availableData
            if more.isEmpty { return nil }
            buffer += more
        }
    }

    func kill() {
        Foundation.kill(process.processIdentifier, SIGKILL)
        process.waitUntilExit()
    }

    func status() -> Int32 {
        process.waitUntilExit()
        return process.terminationStatus
    }
}

@Suite("crashes")
struct CrashTests {
    @Test("SIGKILL at any moment loses no acknowledged commit")
    func kill() throws {
        var generator = SeededGenerator("crash")
        let directory = TemporaryDirectory()
        let path = directory.path("store")
        for _ in 0..<12 {
            let child = try Crasher("write", path)
            var last = "0"
            for _ in 0..<Int.random(in: 1...120, using: &generator) { last = try #require(child.line()) }
            child.kill()
            // What it managed to say before it died is acknowledged too.
            while let line = child.line() { last = line }
            let verifier = try Crasher("verify", path, last)
            #expect(verifier.status() == 0, "DCP_SEED=\(generator.seed), \(last) acknowledged")
        }
    }
}
