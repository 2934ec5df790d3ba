// SPDX-License-Identifier: Apache-2.0

import DCPStore
import DCPTestKit
import Foundation
import Testing

@Suite("environment")
struct EnvironmentTests {
    private func open(_ path: String) throws -> Environment {
        try Environment(directory: path, mapByteCountMax: 1 << 24, tablesMax: 2, durability: .never)
    }

    private func expect(_ code: StoreError.Code, _ word: String, _ body: () throws -> Void) {
        do {
            try body()
            Issue.record("nothing was thrown; expected \(code)")
        } catch let error as StoreError {
            #expect(error.code == code && error.description.contains(word), "\(error)")
        } catch {
            Issue.record("\(error)")
        }
    }

    @Test("a store is open once: a second opener learns who has it, and gets it after the close")
    func lock() throws {
        let directory = TemporaryDirectory()
        let first = try open(directory.path("s"))
        expect(.inUse, "process \(getpid())") { _ = try open(directory.path("s")) }
        first.close()
        try open(directory.path("s")).close()
    }

    @Test("a reader that outlives the close keeps the store open until it ends")
    func lateReader() throws {
        let directory = TemporaryDirectory()
        let environment = try open(directory.path("s"))
        do {
            let read = try environment.beginRead()
            environment.close()
            expect(.inUse, directory.path) { _ = try open(directory.path("s")) }
            expect(.closed, "closed") { _ = try environment.beginRead() }
            _ = consume read
        }
        try open(directory.path("s")).close()
    }

    @Test("a path that is no directory, and a file that is no store, are refused")
    func refusals() throws {
        let directory = TemporaryDirectory()
        try Data("x".utf8).write(to: URL(fileURLWithPath: directory.path("file")))
        expect(.refused, "not a directory") { _ = try open(directory.path("file")) }
        try FileManager.default.createDirectory(atPath: directory.path("d"), withIntermediateDirectories: false)
        try Data(repeating: 65, count: 9000).write(to: URL(fileURLWithPath: directory.path("d/data.mdb")))
        expect(.damaged, "damaged") { _ = try open(directory.path("d")) }
    }

    @Test("a pipe in the place of the data file is refused, not waited for", .timeLimit(.minutes(1)))
    func pipe() throws {
        let directory = TemporaryDirectory()
        let path = directory.path("s")
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: false)
        #expect(mkfifo(path + "/data.mdb", 0o600) == 0)
        expect(.refused, "not a regular file") { _ = try open(path) }
        expect(.refused, "not a regular file") { _ = try Environment(readingDirectory: path, tablesMax: 2) }
    }

    @Test("the directory is the owner's alone")
    func mode() throws {
        let directory = TemporaryDirectory()
        let environment = try open(directory.path("s"))
        let attributes = try FileManager.default.attributesOfItem(atPath: directory.path("s"))
        #expect(attributes[.posixPermissions] as? Int == 0o700)
        environment.close()
    }

    @Test("more readers than the limit are refused as retryable, and the writer still finds a slot")
    func readers() throws {
        let directory = TemporaryDirectory()
        let environment = try open(directory.path("s"))
        final class Holder {
            let read: ReadTransaction
            init(_ environment: Environment) throws { read = try environment.beginRead() }
        }
        var holders: [Holder] = []
        expect(.overloaded, "retry") {
            for _ in 0..<2000 { holders.append(try Holder(environment)) }
        }
        #expect(holders.count > 900)
        _ = try environment.usage()
        holders = []
        _ = try environment.beginRead()
        environment.close()
    }
}
