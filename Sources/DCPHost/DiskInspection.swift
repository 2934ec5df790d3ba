// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPWire
internal import Foundation
internal import Glibc
internal import SystemPackage

/// The file system under a directory, by the name it is mounted with.
enum DiskInspection {
    /// Of the nearest parent if the directory does not exist; the answer names what was inspected.
    static func disk(_ directory: String) -> HostReport.Disk? {
        let (directory, descriptor) = nearestExisting(directory)
        guard descriptor >= 0 else { return nil }
        defer { close(descriptor) }
        var status = statvfs()
        guard fstatvfs(descriptor, &status) == 0 else { return nil }
        return HostReport.Disk(
            directory: directory, fileSystem: fileSystem(descriptor),
            freeByteCount: UInt64(status.f_bavail) * UInt64(status.f_frsize),
            byteCount: UInt64(status.f_blocks) * UInt64(status.f_frsize))
    }

    /// O_PATH, which Glibc shows to C only under _GNU_SOURCE: no permission to read the directory is needed.
    private static let pathOnly: CInt = 0o10000000

    private static func nearestExisting(_ path: String) -> (path: String, descriptor: CInt) {
        var path = path
        while true {
            let descriptor = open(path, pathOnly | O_CLOEXEC)
            if descriptor >= 0 || errno != ENOENT || path == "/" || path == "." { return (path, descriptor) }
            path = FilePath(path).directory.string
        }
    }

    /// By the mount's number and not by the type's magic number: the mount table distinguishes types with the same
    /// number, such as file systems on FUSE.
    private static func fileSystem(_ descriptor: CInt) -> String {
        let information = contents(of: "/proc/self/fdinfo/\(descriptor)")
        guard let line = information.split(separator: "\n").first(where: { $0.hasPrefix("mnt_id:") }),
            let mount = Int(line.dropFirst(7).filter { $0.isNumber })
        else { return "" }
        return type(ofMount: mount, in: contents(of: "/proc/self/mountinfo"))
    }

    /// proc(5): `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`.
    static func type(ofMount mount: Int, in table: String) -> String {
        for line in table.split(separator: "\n") where line.hasPrefix("\(mount) ") {
            let fields = line.split(separator: " ")
            guard let dash = fields.firstIndex(of: "-"), dash + 1 < fields.count else { continue }
            return String(fields[dash + 1])
        }
        return ""
    }

    private static func contents(of path: String) -> String {
        (try? String(contentsOfFile: path, encoding: .utf8)) ?? ""
    }
}
