internal import DCPCore
internal import Glibc
internal import SystemPackage

/// The directory of a backup while it is written: beside its later place, under a hidden name, until it is whole.
final class BackupDirectory: Sendable {
    /// Where it is when it is whole.
    let path: String
    let partialPath: String

    /// - Throws: `.invalidRequest` when something has the name, or is being written for it.
    init(for path: String) throws(ServiceError) {
        let target = FilePath(path)
        guard !path.isEmpty, !path.utf8.contains(0), let name = target.lastComponent?.string else {
            throw ServiceError(
                .invalidRequest, "\(path.debugDescription) is no directory that could be made; name one.")
        }
        self.path = target.string
        partialPath = "\(target.directory.string)/.\(name).partial"
        var status = stat()
        guard lstat(self.path, &status) != 0 else {
            throw ServiceError(
                .invalidRequest, "\(path) is there already, and a backup overwrites nothing; name a new directory.")
        }
        guard mkdir(partialPath, 0o700) == 0 else {
            let reason = systemMessage(errno)
            throw ServiceError(
                .invalidRequest,
                errno == EEXIST
                    ? "\(partialPath) is there: another backup to \(path) runs, or one was killed. Wait for it, or remove "
                        + "that directory."
                    : "\(partialPath) cannot be made: \(reason). Choose a directory that this user may write to.")
        }
    }

    /// Gives it its name: all is on the disk then.
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
    guard let listing = opendir(path) else { return }
    while let entry = readdir(listing) {
        let name = withUnsafeBytes(of: &entry.pointee.d_name) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
        if name != ".", name != ".." { unlink("\(path)/\(name)") }
    }
    closedir(listing)
    rmdir(path)
}

/// A file with holes that is written in order, and its checksum as if they were zeros.
final class StoreFileWriter {
    private let path: String
    private let descriptor: OwnedDescriptor
    private var checksum = CRC32C()
    /// Up to where it is in the checksum.
    private var end = 0
    private static let zeros = [UInt8](repeating: 0, count: 1 << 20)

    init(_ path: String) throws(ServiceError) {
        self.path = path
        descriptor = try openDescriptor(path, O_WRONLY | O_CREAT | O_EXCL, mode: 0o600)
    }

    /// - Parameter offset: not before what is written already.
    func write(_ bytes: ArraySlice<UInt8>, at offset: Int) throws(ServiceError) {
        skip(to: offset)
        end += bytes.count
        let isWritten = bytes.withUnsafeBytes { bytes in
            checksum.update(bytes)
            var done = 0
            while done < bytes.count {
                let count = pwrite(
                    descriptor.value, bytes.baseAddress! + done, bytes.count - done, off_t(offset + done))
                if count >= 0 { done += count } else if errno != EINTR { return false }
            }
            return true
        }
        guard isWritten else { throw failure() }
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

    /// Syncs it. - Returns: the checksum of all of it.
    func finish(byteCount: Int) throws(ServiceError) -> UInt32 {
        skip(to: byteCount)
        guard ftruncate(descriptor.value, off_t(byteCount)) == 0, fsync(descriptor.value) == 0 else { throw failure() }
        return checksum.value
    }

    private func failure() -> ServiceError {
        ServiceError(
            .invalidRequest, "\(path) cannot be written: \(systemMessage(errno)). Free space or choose another place.")
    }
}

extension UInt32 {
    var hexadecimal: String {
        let digits = String(self, radix: 16)
        return String(repeating: "0", count: 8 - digits.count) + digits
    }
}
