// SPDX-License-Identifier: Apache-2.0

import DCPCache
import DCPCore
import Foundation

/// A copy of a rank's store, made while nobody had it open.
struct StoreCopy {
    let path: String
    /// The last change in it.
    let mark: UInt64
    /// What is committed in it.
    let held: [SequenceID: Int]

    /// - Parameter store: the directory of a rank that does not run.
    init(of store: String, _ rank: RankIndex, _ shape: ClusterShape, at path: String) throws {
        self.path = path
        try? FileManager.default.removeItem(atPath: path)
        try Self.copyFiles(of: store, to: path)
        // What opens a store may change it: the copy itself stays what was copied.
        let scratch = path + ".read"
        try Self.copyFiles(of: path, to: scratch)
        defer { try? FileManager.default.removeItem(atPath: scratch) }
        let cache = try ShardCache.open(directory: scratch, rank: rank, cluster: shape)
        defer { cache.close() }
        mark = cache.mark
        held = Dictionary(uniqueKeysWithValues: cache.sequences.map { ($0.id, $0.committedLength.value) })
    }

    /// Puts it in the place of the store, and the store in its place. Again undoes that.
    ///
    /// File by file: a store's directory may be a file system of its own.
    func exchange(with store: String) throws {
        let files = FileManager.default
        let aside = path + ".aside"
        for (source, target) in [(store, aside), (path, store), (aside, path)] {
            try Self.copyFiles(of: source, to: target)
            for name in try files.contentsOfDirectory(atPath: source) {
                try files.removeItem(atPath: "\(source)/\(name)")
            }
        }
    }

    private static func copyFiles(of source: String, to target: String) throws {
        let files = FileManager.default
        if !files.fileExists(atPath: target) {
            try files.createDirectory(atPath: target, withIntermediateDirectories: true)
        }
        for name in try files.contentsOfDirectory(atPath: source) {
            try files.copyItem(atPath: "\(source)/\(name)", toPath: "\(target)/\(name)")
        }
    }
}
