// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPFiles
internal import Glibc
internal import SystemPackage

/// The directory of a backup while it is written: beside its final place, under a hidden name, until it is complete.
final class BackupDirectory: Sendable {
    /// Its final path.
    let path: String
    let partialPath: String

    /// - Throws: `.invalidRequest` if the name exists, or another backup to it is being written.
    init(for path: String) throws(ServiceError) {
        let target = FilePath(path)
        guard !path.isEmpty, !path.utf8.contains(0), let name = target.lastComponent?.string else {
            throw ServiceError(
                .invalidRequest, "\(path.debugDescription) is not a valid path for a new directory; choose another.")
        }
        self.path = target.string
        partialPath = "\(target.directory.string)/.\(name).partial"
        var status = stat()
        guard lstat(self.path, &status) != 0 else {
            throw ServiceError(
                .invalidRequest, "\(path) already exists, and a backup does not overwrite it; choose a new directory.")
        }
        guard mkdir(partialPath, 0o700) == 0 else {
            let number = errno
            throw ServiceError(
                .invalidRequest,
                number == EEXIST
                    ? "\(partialPath) exists: another backup to \(path) is running, or was killed. Wait for it, or "
                        + "remove that directory."
                    : "\(partialPath) cannot be made: \(systemMessage(number)). Choose a directory that this user may write to."
            )
        }
    }

    /// Renames it when everything is on the disk.
    func publish(_ manifest: BackupManifest) throws(ServiceError) {
        let file = try StoreFileWriter(partialPath + "/" + BackupManifest.fileName)
        let bytes = try manifest.encoded()
        try file.write(bytes[...], at: 0)
        _ = try file.finish(byteCount: bytes.count)
        try syncDirectory(partialPath)
        guard rename(partialPath, path) == 0 else {
            throw ServiceError(.invalidRequest, "\(partialPath) cannot be renamed to \(path): \(systemMessage(errno)).")
        }
        try syncDirectory(FilePath(path).directory.string)
    }

    deinit {
        // After the rename nothing is there of this name.
        removeStoreDirectory(partialPath)
    }
}

/// Makes the names in a directory durable.
func syncDirectory(_ path: String) throws(ServiceError) {
    let directory = try openDescriptor(path, O_RDONLY | O_DIRECTORY)
    guard fsync(directory.value) == 0 else {
        throw ServiceError(.invalidRequest, "The directory \(path) cannot be synced: \(systemMessage(errno)).")
    }
}

/// Removes a directory of files, as backups and stores are.
func removeStoreDirectory(_ path: String) {
    guard let names = fileNames(in: path) else { return }
    for name in names { unlink("\(path)/\(name)") }
    rmdir(path)
}

/// A sparse file that is written in order, with the checksum of its contents, holes as zeros.
final class StoreFileWriter {
    private let path: String
    private let descriptor: OwnedDescriptor
    private var checksum = CRC32C()
    /// Up to where it is in the checksum.
    private var end = 0
    private static let zeros = [UInt8](repeating: 0, count: 1 << 20)
    private static let holeByteCount = 64 << 10

    init(_ path: String) throws(ServiceError) {
        self.path = path
        descriptor = try openDescriptor(path, O_WRONLY | O_CREAT | O_EXCL, mode: 0o600)
    }

    /// - Parameter offset: not before what is written already.
    func write(_ bytes: ArraySlice<UInt8>, at offset: Int) throws(ServiceError) {
        skip(to: offset)
        end += bytes.count
        let number = bytes.withUnsafeBytes { bytes in
            checksum.update(bytes)
            return descriptor.write(bytes, at: offset)
        }
        guard number == 0 else { throw failure(number) }
    }

    /// Leaves holes where there are long runs of zeros.
    func writeLeavingHoles(_ bytes: ArraySlice<UInt8>, at offset: Int) throws(ServiceError) {
        for start in stride(from: bytes.startIndex, to: bytes.endIndex, by: Self.holeByteCount) {
            let part = bytes[start..<min(start + Self.holeByteCount, bytes.endIndex)]
            if part.contains(where: { $0 != 0 }) { try write(part, at: offset + start - bytes.startIndex) }
        }
    }

    private func skip(to offset: Int) {
        precondition(offset >= end, "written in order")
        Self.zeros.withUnsafeBytes { zeros in
            while end < offset {
                let count = min(offset - end, zeros.count)
                checksum.update(UnsafeRawBufferPointer(rebasing: zeros[..<count]))
                end += count
            }
        }
    }

    /// Syncs it.
    /// - Returns: the checksum of all of it.
    func finish(byteCount: Int) throws(ServiceError) -> UInt32 {
        skip(to: byteCount)
        guard ftruncate(descriptor.value, off_t(byteCount)) == 0, fsync(descriptor.value) == 0 else {
            throw failure(errno)
        }
        return checksum.value
    }

    private func failure(_ number: Int32) -> ServiceError {
        ServiceError(
            .invalidRequest, "\(path) cannot be written: \(systemMessage(number)). Free space or choose another place.")
    }
}
