// SPDX-License-Identifier: Apache-2.0

public import DCPCore
internal import Foundation
internal import Glibc
internal import Synchronization

/// A directory for what is measured, on a real file system. A process that is killed leaves it behind, named
/// `dcp-bench-*`.
public final class ScratchDirectory: Sendable {
    public let path: String
    private let taken = Atomic<Int>(0)

    /// - Parameter parent: nil for TMPDIR, or else /var/tmp: /tmp is often memory.
    /// - Throws: `.invalidConfiguration` when none can be made there.
    public init(in parent: String?) throws(ServiceError) {
        let environment = ProcessInfo.processInfo.environment["TMPDIR"].flatMap { $0.isEmpty ? nil : $0 }
        let parent = URL(filePath: parent ?? environment ?? "/var/tmp").standardizedFileURL.path
        var template = Array("\(parent)/dcp-bench-XXXXXX".utf8CString)
        guard mkdtemp(&template) != nil else {
            let reason = String(cString: strerror(errno))
            throw ServiceError(
                .invalidConfiguration,
                "No directory can be created in \(parent): \(reason). Choose an existing, writable --dir.")
        }
        path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    /// A new unused path in it.
    func fresh(_ stem: String) -> String {
        "\(path)/\(stem)-\(taken.add(1, ordering: .relaxed).newValue)"
    }

    /// - Throws: `.invalidConfiguration` when the file system has less free space than that.
    func requireRoom(_ byteCount: Int) throws(ServiceError) {
        var status = statvfs()
        guard statvfs(path, &status) == 0 else { return }
        let free = Int(status.f_bavail) * Int(status.f_frsize)
        guard free > byteCount else {
            throw ServiceError(
                .invalidConfiguration,
                "The measurement needs \(byteCount) bytes on disk and \(path) has \(free) free; choose another --dir, or a "
                    + "shorter --context.")
        }
    }

    /// Writes a file's dirty pages now, so that the kernel does not while something is measured.
    static func sync(_ file: String) {
        let descriptor = open(file, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return }
        // Without it figures are noisier, not wrong.
        _ = fsync(descriptor)
        Glibc.close(descriptor)
    }

    /// Removes the directory with everything in it.
    /// - Throws: `.internal` naming what stayed.
    public func remove() throws(ServiceError) {
        do { try FileManager.default.removeItem(atPath: path) } catch {
            throw ServiceError(
                .internal,
                "\(path) cannot be removed: \(error.localizedDescription) Remove it manually.")
        }
    }
}
