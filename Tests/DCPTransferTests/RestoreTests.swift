// SPDX-License-Identifier: Apache-2.0

import DCPCore
import DCPTestKit
import DCPTransfer
import Foundation
import Testing

/// Restores of backups whose files are no stores, which a restore does not notice.
@Suite("Restore: stores that are put in place")
struct RestoreTests {
    private let place = TemporaryDirectory()
    private static let content = (0..<3 << 20).map { UInt8($0 % 251 + 1) }

    private static func manifest(_ names: [String], byteCount: Int? = nil) -> [UInt8] {
        var checksum = CRC32C()
        content.withUnsafeBytes { checksum.update($0) }
        let files = names.map { name in
            """
            {"name": "\(name)", "bytes": \(byteCount ?? content.count), "used_bytes": 0, \
            "crc32c": "\(checksum.value.hexadecimal)"}
            """
        }
        let text = """
            {"format": \(BackupManifest.formatNow), "release": "x", "taken_at": "today", "cluster": "c", "epoch": 1, \
            "ranks": 2, "head_groups": 1, "interleave": 1, "block_tokens": 64, "models": [], "sequences": [], \
            "files": [\(files.joined(separator: ", "))]}
            """
        return Array(text.utf8)
    }

    private func makeDirectory(_ name: String) throws -> String {
        let path = place.path(name)
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        return path
    }

    private func makeArchive(_ names: [String]) throws -> String {
        let members = names.map { ($0, Self.content) } + [(BackupManifest.fileName, Self.manifest(names))]
        var bytes: [UInt8] = []
        for (name, content) in members {
            bytes += TarHeader(name: name, byteCount: content.count, modified: 0).encoded() + content
            bytes += [UInt8](repeating: 0, count: (512 - content.count % 512) % 512)
        }
        let path = place.path("backup.tar")
        try Data(bytes + [UInt8](repeating: 0, count: 1024)).write(to: URL(filePath: path))
        return path
    }

    private func makeBackup(_ names: [String], byteCount: Int? = nil) throws -> String {
        let path = try makeDirectory("backup")
        for name in names { try Data(Self.content).write(to: URL(filePath: "\(path)/\(name)")) }
        let manifest = Self.manifest(names, byteCount: byteCount)
        try Data(manifest).write(to: URL(filePath: "\(path)/\(BackupManifest.fileName)"))
        return path
    }

    private func restore(
        _ archive: String, to: String, progress: (Int, Int) -> Void = { _, _ in }
    ) throws -> [RestoredStore] {
        let file = try FileHandle(forReadingFrom: URL(filePath: archive))
        defer { try? file.close() }
        return try BackupManifest.restore(
            from: PipeEnd(file.fileDescriptor, O_RDONLY), to: to, progress: progress
        ).stores
    }

    private func content(_ path: String) throws -> [UInt8] { Array(try Data(contentsOf: URL(filePath: path))) }

    @Test("a second restore of a store is refused while the first one writes it, and the first store is whole")
    func twoAtOnce() throws {
        let archive = try makeArchive(["rank-0.mdb"])
        let to = try makeDirectory("to")
        var refusals: [ServiceError?] = []
        let restored = try restore(archive, to: to) { done, _ in
            guard refusals.isEmpty, done > Self.content.count / 2 else { return }
            refusals.append(#expect(throws: ServiceError.self) { try restore(archive, to: to) })
        }
        #expect(refusals.count == 1 && refusals[0]?.code == .conflict, "\(refusals)")
        #expect(restored.map(\.path) == ["\(to)/rank-0"])
        #expect(try content("\(to)/rank-0/data.mdb") == Self.content)
        #expect(try FileManager.default.contentsOfDirectory(atPath: to) == ["rank-0"])
    }

    @Test("the remains of a killed restore are removed; a link in their place is refused, and its target stays")
    func remains() throws {
        let archive = try makeArchive(["rank-0.mdb"])
        let to = try makeDirectory("to"), victim = try makeDirectory("victim")
        let kept = URL(filePath: "\(victim)/data.mdb")
        try Data("kept".utf8).write(to: kept)
        try FileManager.default.createSymbolicLink(atPath: "\(to)/.rank-0.partial", withDestinationPath: victim)
        let refused = #expect(throws: ServiceError.self) { try restore(archive, to: to) }
        #expect(refused?.message.contains("remove it") == true, "\(String(describing: refused))")
        #expect(try Data(contentsOf: kept) == Data("kept".utf8))
        try FileManager.default.removeItem(atPath: "\(to)/.rank-0.partial")

        let partial = try makeDirectory("to/.rank-0.partial")
        try Data("half".utf8).write(to: URL(filePath: "\(partial)/data.mdb"))
        _ = try restore(archive, to: to)
        #expect(try content("\(to)/rank-0/data.mdb") == Self.content)
        #expect(try FileManager.default.contentsOfDirectory(atPath: to) == ["rank-0"])
    }

    @Test("a directory that is being written is not another writer's, who leaves it alone")
    func writtenByAnother() throws {
        let path = place.path(".backup.partial")
        do {
            let first = try PartialDirectory(path)
            let refused = #expect(throws: ServiceError.self) { try PartialDirectory(path) }
            #expect(refused?.code == .conflict)
            #expect(try place.contents() == [".backup.partial"])
            #expect(first.publish(as: place.path("backup")) == 0)
        }
        #expect(try place.contents() == ["backup"])
        do {
            let second = try PartialDirectory(path)
            #expect(second.path == path)
        }
        #expect(try place.contents() == ["backup"])
    }

    @Test("a store that is named twice is restored once")
    func namedTwice() throws {
        let backup = try makeBackup(["rank-0.mdb", "rank-1.mdb"])
        let to = try makeDirectory("to")
        let rank = DaemonRole.rank(RankIndex(1))
        let restored = try BackupManifest(of: backup).restore(from: backup, [rank, rank], to: to)
        #expect(restored.map(\.store) == [rank])
        #expect(try FileManager.default.contentsOfDirectory(atPath: to) == ["rank-1"])
    }

    @Test("sizes that no stores have are refused", arguments: [-1, 1 << 49, Int.max])
    func sizes(_ byteCount: Int) throws {
        let backup = try makeBackup(["rank-0.mdb", "rank-1.mdb"], byteCount: byteCount)
        let refused = #expect(throws: ServiceError.self) { try BackupManifest(of: backup) }
        #expect(refused?.message.contains("\(byteCount) bytes") == true, "\(String(describing: refused))")
    }
}
