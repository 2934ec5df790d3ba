// SPDX-License-Identifier: Apache-2.0

import DCPCache
import DCPCore
import DCPTestKit
import Foundation
import Testing

/// The child process of the tests; see `Tests/Support/cache-crasher`.
final class Crasher {
    let process = Process()
    private let output = Pipe()
    private let errors = Pipe()
    private let input = Pipe()
    private var buffer = Data()

    init(_ arguments: String...) throws {
        // Executables stand beside the test bundle.
        let own = try FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")
        let beside = URL(fileURLWithPath: own).deletingLastPathComponent().appendingPathComponent("cache-crasher")
        process.executableURL = beside
        process.arguments = arguments
        // The test runner's, which would narrate a crash that is meant.
        process.environment = ProcessInfo.processInfo.environment.merging(["SWIFT_BACKTRACE": "enable=no"]) { $1 }
        process.standardOutput = output
        process.standardError = errors
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

    /// All that it said on standard error, when it has ended.
    func messages() -> String { String(decoding: errors.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self) }

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
            #expect(verifier.status() == 0, "DCP_SEED=\(SeededGenerator.seed), \(last) acknowledged")
        }
    }

    /// Fills sealed blocks and cuts them off again, which frees and takes pages in every round.
    private func growth(_ rig: Rig, rounds: Int) throws -> Int {
        let before = try rig.cache.statistics().storeFileByteCount
        for _ in 0..<rounds {
            let length = try rig.state(2).committedLength.value
            for position in length..<length + 64 { try rig.appendAll(2, at: position, [UInt32(position)]) }
            try rig.commit(2, length + 64)
            try rig.truncate(2, length)
            try rig.settle()
        }
        return try rig.cache.statistics().storeFileByteCount - before
    }

    @Test("a process that is killed while it reads holds no pages: the next one uses again what it frees")
    func deadReader() throws {
        let directory = TemporaryDirectory()
        let path = directory.path("store")
        // Beside the model and the sequence of the crasher.
        func rig() throws -> Rig { try Rig(kvHeads: 1, dims: (8, 8), path: path) }
        do {
            let rig = try rig()
            try rig.open(2)
            _ = try growth(rig, rounds: 20)
            rig.cache.close()
        }
        let child = try Crasher("read", path)
        #expect(child.line() == "ready")
        child.kill()
        let rig = try rig()
        #expect(try rig.cache.statistics().readers == 0)
        // A few pages at most: when the writer syncs decides in which order pages come back.
        let grown = try growth(rig, rounds: 60)
        // What a reader that lives costs; with the dead one's slot it would be this.
        let reader = try rig.cache.context(sequence: SequenceID(2), layer: 0, length: 0)
        let heldBack = try growth(rig, rounds: 60)
        #expect(heldBack > 0 && grown < heldBack / 4, "\(grown) bytes, \(heldBack) beside a reader")
        withExtendedLifetime(reader) {}
    }

    @Test(
        "a read that fails under the map ends the process by SIGBUS, after one line that names file, place and remedy")
    func fault() throws {
        let directory = TemporaryDirectory()
        let path = directory.path("store")
        let writer = try Crasher("write", path)
        while let line = writer.line(), let length = Int(line), length < 60 {}
        writer.kill()
        let child = try Crasher("fault", path)
        let messages = child.messages()
        child.process.waitUntilExit()
        #expect(child.process.terminationReason == .uncaughtSignal && child.process.terminationStatus == SIGBUS)
        #expect(messages.split(separator: "\n").count == 1, "\(messages)")
        #expect(messages.hasPrefix("<2>\(path)/data.mdb cannot be read at byte "), "\(messages)")
        #expect(messages.contains("SIGBUS") && messages.contains("`dcpctl verify`"))
        let offset = try #require(messages.firstMatch(of: #/at byte ([0-9]+)/#)?.1)
        #expect(try #require(Int(offset)) >= 16384)
        // The next start says what is the matter, and does not read past the end.
        let next = try Crasher("hold", path)
        #expect(next.status() == 1 && next.messages().contains("truncated"))
    }
}
