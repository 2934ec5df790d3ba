// SPDX-License-Identifier: Apache-2.0

public import DCPCore
internal import Foundation

extension BackupManifest {
    /// What one may take: a million names of the longest.
    private static let byteCountMax = 512 << 20
    private static let shownName = "standard input"

    /// What came of a store.
    private struct ReadFile {
        var byteCount: Int
        /// nil of one that is not wanted.
        var checksum: UInt32?
    }

    /// Puts stores of a backup in place that comes as a stream, as ``restore(from:_:to:owner:progress:)`` does from a directory:
    /// none has its name before all was read, the end too, and compared.
    /// - Parameter progress: called with the bytes done of those that are known of.
    /// - Returns: the manifest, which comes last, and the stores.
    public static func restore(
        from input: PipeEnd, _ stores: [DaemonRole]? = nil, to place: String, owner: String? = nil,
        progress: (_ done: Int, _ total: Int) -> Void = { _, _ in }
    ) throws(ServiceError) -> (manifest: BackupManifest, stores: [RestoredStore]) {
        let partial = try PartialStores(in: place, owner: owner)
        let archive = TarReader(from: input)
        var found: [String: ReadFile] = [:]
        var last: BackupManifest?
        var total = 0
        while let header = try archive.next() {
            guard last == nil else { throw TarHeader.refusal("it continues after its \(fileName)") }
            guard header.name != fileName else {
                last = try BackupManifest(archive, byteCount: header.byteCount)
                continue
            }
            let file = File(name: header.name, bytes: header.byteCount, usedBytes: 0, crc32c: "")
            guard let store = file.owner, found[file.name] == nil else {
                throw TarHeader.refusal("it has a file \(header.name.debugDescription)")
            }
            var checksum: UInt32?
            if stores?.contains(store) ?? true {
                try partial.checkIsFree(file)
                total += file.bytes
                checksum = try read(archive, file, into: try partial.begin(file)) { progress($0, total) }
            }
            found[file.name] = ReadFile(byteCount: file.bytes, checksum: checksum)
        }
        guard let manifest = last else { throw TarHeader.refusal("it has no \(fileName)") }
        for file in try manifest.files(of: stores, in: shownName) {
            guard let read = found[file.name], read.byteCount == file.bytes else {
                throw file.damaged(in: shownName, "it has \(found[file.name]?.byteCount ?? 0) of \(file.bytes) bytes")
            }
            try file.check(read.checksum!, in: shownName)
        }
        return (manifest, try partial.publish(try manifest.files(of: stores, in: shownName)))
    }

    private static func read(
        _ archive: TarReader, _ file: File, into target: StoreFileWriter, progress: (Int) -> Void
    ) throws(ServiceError) -> UInt32 {
        var offset = 0
        while offset < file.bytes {
            let part = try archive.read()
            try target.writeLeavingHoles(part, at: offset)
            offset += part.count
            progress(archive.offset)
        }
        return try target.finish(byteCount: file.bytes)
    }

    private init(_ archive: TarReader, byteCount: Int) throws(ServiceError) {
        guard byteCount <= Self.byteCountMax else {
            throw TarHeader.refusal(
                "its \(Self.fileName) has \(byteCount) bytes, but the limit is \(Self.byteCountMax)")
        }
        var data = Data()
        while data.count < byteCount { data.append(contentsOf: try archive.read()) }
        try self.init(decoding: data, from: "\(Self.shownName)/\(Self.fileName)", of: "The backup on \(Self.shownName)")
    }
}
