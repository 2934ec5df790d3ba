// SPDX-License-Identifier: Apache-2.0

public import DCPCore
internal import DCPFiles
internal import DCPWire
internal import Foundation

/// The contents of a backup, in its file `backup.json`, which is written last: a directory without it is not a backup.
public struct BackupManifest: Codable, Hashable, Sendable {
    public static let fileName = "backup.json"
    public static let formatNow = 1

    /// One store.
    public struct File: Codable, Hashable, Sendable {
        /// In the backup's directory: `coordinator.mdb`, `rank-0.mdb`.
        public var name: String
        /// Size of the file; on the disk it is smaller, because unused pages are holes.
        public var bytes: Int
        /// Bytes of used pages.
        public var usedBytes: Int
        /// Of the whole file, holes as zeros: 8 hexadecimal digits.
        public var crc32c: String

        /// The directory that its store has: `coordinator`, `rank-0`.
        public var store: String { String(name.dropLast(Self.suffix.count)) }
        /// The daemon of the store; nil for a foreign name.
        var owner: DaemonRole? { name.hasSuffix(Self.suffix) ? DaemonRole(fileName: store) : nil }

        /// More than any store has.
        static let byteCountMax = WireReader.lengthMax

        static func name(of owner: DaemonRole) -> String { owner.fileName + suffix }
        private static let suffix = ".mdb"
    }

    public var format = formatNow
    public var release: String
    /// UTC, when all stores were held.
    public var takenAt: String
    public var cluster: String
    public var epoch: UInt64
    public var ranks: Int
    public var headGroups: Int
    public var interleave: Int
    public var blockTokens: Int
    public var files: [File]
    public var models: [String]
    public var sequences: [String]

    /// Reads the manifest of a backup.
    /// - Throws: `.invalidRequest` for a directory that is not a complete backup, or one of another format.
    public init(of directory: String) throws(ServiceError) {
        let path = directory + "/" + Self.fileName
        let data: Data
        do {
            data = try Data(contentsOf: URL(fileURLWithPath: path))
        } catch {
            throw ServiceError(
                .invalidRequest,
                "\(directory) is not a complete backup: \(path) cannot be read (\(systemReason(error))). Give a "
                    + "directory that `dcpctl backup` made.")
        }
        try self.init(decoding: data, from: path, of: "The backup \(directory)")
    }

    /// - Parameters:
    ///   - path: what an error names, of a manifest that cannot be read.
    ///   - backup: what it names, of one of another format.
    init(decoding data: Data, from path: String, of backup: String) throws(ServiceError) {
        do {
            let decoder = JSONDecoder()
            decoder.keyDecodingStrategy = .convertFromSnakeCase
            self = try decoder.decode(Self.self, from: data)
        } catch {
            throw ServiceError(.invalidRequest, "\(path) was not written by `dcpctl backup`: \(systemReason(error)).")
        }
        guard format == Self.formatNow else {
            throw ServiceError(
                .invalidRequest,
                "\(backup) has format \(format), but this program reads \(Self.formatNow). Use the release "
                    + "\(release), which wrote it."
            )
        }
        let stores = Set(files.map(\.name))
        // No more files than a cluster has daemons, so that their sizes have a sum.
        guard stores.count == files.count, files.count <= ClusterShape.ranksMax + 1,
            files.allSatisfy({ $0.owner != nil })
        else {
            throw ServiceError(
                .invalidRequest,
                "\(path) names files that do not belong to a backup: \(stores.sorted()).")
        }
        for file in files {
            guard (0...File.byteCountMax).contains(file.bytes), (0...file.bytes).contains(file.usedBytes) else {
                throw ServiceError(
                    .invalidRequest,
                    "\(path) says that \(file.name) has \(file.bytes) bytes and uses \(file.usedBytes), but the limits "
                        + "are \(File.byteCountMax) bytes, and all of them used. Use another backup.")
            }
        }
    }

    init(
        takenAt: Date, topology: (cluster: ClusterID, shape: ClusterShape), epoch: Epoch, release: String,
        files: [File],
        models: [String], sequences: [String]
    ) {
        self.release = release
        self.takenAt = takenAt.formatted(.iso8601)
        cluster = "\(topology.cluster)"
        self.epoch = epoch.value
        ranks = topology.shape.ranks
        headGroups = topology.shape.headGroups
        interleave = topology.shape.layout.interleave
        blockTokens = topology.shape.layout.blockTokens
        self.files = files
        self.models = models
        self.sequences = sequences
    }

    func encoded() throws(ServiceError) -> [UInt8] {
        let encoder = JSONEncoder()
        encoder.keyEncodingStrategy = .convertToSnakeCase
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
        do {
            return Array(try encoder.encode(self)) + [UInt8(ascii: "\n")]
        } catch {
            throw ServiceError(.internal, "The manifest cannot be written as JSON: \(error). Report this as a bug.")
        }
    }
}
