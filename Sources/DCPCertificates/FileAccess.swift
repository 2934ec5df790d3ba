// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import Foundation
internal import Glibc

/// Files as certificates need them: of the right mode from the first moment, on the disk before anybody relies on them,
/// and never half-written.
enum FileAccess {
    static let keyMode: mode_t = 0o600
    static let certificateMode: mode_t = 0o644

    /// No file of certificates is longer; the path may name anything.
    static let byteCountMax = 1 << 20

    /// Writes a file that does not exist yet.
    static func create(_ path: String, _ text: String, mode: mode_t) throws(ServiceError) {
        let descriptor = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode)
        guard descriptor >= 0 else { throw failure("made", path, errno) }
        defer { close(descriptor) }
        let bytes = Array(text.utf8)
        var done = 0
        while done < bytes.count {
            let count = bytes.withUnsafeBytes { write(descriptor, $0.baseAddress! + done, bytes.count - done) }
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { throw abandon(path, errno) }
            done += count
        }
        // The creation mask may have taken from the mode.
        guard fchmod(descriptor, mode) == 0, fsync(descriptor) == 0 else { throw abandon(path, errno) }
    }

    static func read(_ path: String) throws(ServiceError) -> String {
        do throws(WholeFile.Refusal) {
            return String(decoding: try WholeFile(path, byteCountMax: byteCountMax).bytes, as: UTF8.self)
        } catch {
            throw error.error(.invalidRequest, "give a PEM file that you may read")
        }
    }

    /// Names of files are on the disk only when their directory is.
    static func syncDirectory(_ path: String) throws(ServiceError) {
        let descriptor = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard descriptor >= 0 else { throw failure("read", path, errno) }
        defer { close(descriptor) }
        guard fsync(descriptor) == 0 else { throw failure("synced", path, errno) }
    }

    /// - Throws: `.conflict` when there is something at the target and it is not to be replaced.
    static func move(_ path: String, to target: String, replacing: Bool) throws(ServiceError) {
        if replacing {
            guard rename(path, target) == 0 else { throw failure("made", target, errno) }
        } else {
            // A second name for a file never takes the place of another.
            guard link(path, target) == 0 else { throw failure("made", target, errno) }
            unlink(path)
        }
    }

    /// The names in a directory, in order; without those that begin with a dot.
    static func list(_ path: String) throws(ServiceError) -> [String] {
        guard let directory = opendir(path) else { throw failure("read", path, errno) }
        defer { closedir(directory) }
        var names: [String] = []
        while let entry = readdir(directory) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) { pointer in
                pointer.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            if !name.hasPrefix(".") { names.append(name) }
        }
        return names.sorted()
    }

    static func isDirectory(_ path: String) throws(ServiceError) -> Bool {
        try attributes(path)[.type] as? FileAttributeType == .typeDirectory
    }

    /// Of the file that a link leads to.
    ///
    /// Foundation's and not `stat`, whose structure Swift finds in two modules as soon as one file imports Foundation.
    static func attributes(_ path: String) throws(ServiceError) -> [FileAttributeKey: Any] {
        do {
            return try FileManager.default.attributesOfItem(
                atPath: URL(fileURLWithPath: path).resolvingSymlinksInPath().path)
        } catch {
            throw failure("read", path, exists(path) ? EACCES : ENOENT)
        }
    }

    /// Whether there is anything of the name, a link that leads nowhere too.
    static func exists(_ path: String) -> Bool {
        (try? FileManager.default.attributesOfItem(atPath: path)) != nil
    }

    static func failure(_ what: String, _ path: String, _ number: Int32) -> ServiceError {
        let reason = String(cString: strerror(number))
        if number == EEXIST {
            return ServiceError(.conflict, "\(path) already exists, and nothing is overwritten; move it away first.")
        }
        return ServiceError(
            .invalidRequest, "\(path) cannot be \(what): \(reason). Check the path, its permissions and the free space."
        )
    }

    private static func abandon(_ path: String, _ number: Int32) -> ServiceError {
        unlink(path)
        return failure("written", path, number)
    }
}
