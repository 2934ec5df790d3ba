// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPFiles
internal import Glibc
internal import SystemPackage

/// The directory of a backup while it is written: beside its final place, under a hidden name, until it is complete.
final class BackupDirectory: Sendable {
    /// Its final path.
    let path: String
    private let partial: PartialDirectory

    /// - Throws: `.invalidRequest` if the name exists; `.conflict` if another backup to it is being written.
    init(for path: String) throws(ServiceError) {
        let target = FilePath(path)
        guard !path.isEmpty, !path.utf8.contains(0), let name = target.lastComponent?.string else {
            throw ServiceError(
                .invalidRequest, "\(path.debugDescription) is not a valid path for a new directory; choose another.")
        }
        self.path = target.string
        var status = stat()
        guard lstat(self.path, &status) != 0 else {
            throw ServiceError(
                .invalidRequest, "\(path) already exists, and a backup does not overwrite it; choose a new directory.")
        }
        partial = try PartialDirectory("\(target.directory.string)/.\(name).partial")
    }

    func makeFile(_ name: String) throws(ServiceError) -> StoreFileWriter { try partial.makeFile(name) }

    /// Renames it when everything is on the disk.
    func publish(_ manifest: BackupManifest) throws(ServiceError) {
        let file = try makeFile(BackupManifest.fileName)
        let bytes = try manifest.encoded()
        try file.write(bytes[...], at: 0)
        _ = try file.finish(byteCount: bytes.count)
        try partial.sync()
        let number = partial.publish(as: path)
        guard number == 0 else {
            throw ServiceError(
                .invalidRequest, "\(partial.path) cannot be renamed to \(path): \(systemMessage(number)).")
        }
        try syncDirectory(FilePath(path).directory.string)
    }
}

/// Makes the names in a directory durable.
/// - Parameter shown: what an error names instead of the path.
func syncDirectory(_ path: String, shown: String? = nil) throws(ServiceError) {
    let directory = try openDescriptor(path, O_RDONLY | O_DIRECTORY, shown: shown)
    guard fsync(directory.value) == 0 else {
        throw ServiceError(.invalidRequest, "The directory \(shown ?? path) cannot be synced: \(systemMessage(errno)).")
    }
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

    /// - Parameter shown: what errors name.
    init(_ path: String, shown: String) throws(ServiceError) {
        self.path = shown
        descriptor = try openDescriptor(path, O_WRONLY | O_CREAT | O_EXCL, mode: 0o600, shown: shown)
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
