// SPDX-License-Identifier: Apache-2.0

public import DCPWire
internal import Foundation
internal import Glibc

/// Inspects this process and its host, with system calls that may block on a network file system.
public enum HostInspection {
    /// - Parameter store: the directory of a store; if it does not exist, its nearest existing parent is inspected, and
    ///   named in the report.
    public static func report(store: String? = nil) -> HostReport {
        var report = HostReport(processID: UInt32(getpid()), userID: getuid())
        report.hostName = hostName()
        // A service with `ProcSubset=pid` does not see the first.
        report.bootID = line(of: "/proc/sys/kernel/random/boot_id")
        if report.bootID.isEmpty { report.bootID = line(of: "/etc/machine-id") }
        report.wallNanoseconds = UInt64(Date().timeIntervalSince1970 * 1e9)
        report.openFiles = UInt64(names(in: "/proc/self/fd").count)
        report.openFilesMax = limit(RLIMIT_NOFILE)
        report.lockedByteCountMax = limit(__RLIMIT_MEMLOCK)
        report.hugePages = chosen(in: line(of: "/sys/kernel/mm/transparent_hugepage/enabled"))
        report.disk = store.flatMap(DiskInspection.disk)
        report.variables = variables()
        return report
    }

    /// OpenBLAS's and ours, at most 32 of them.
    private static func variables() -> [String] {
        var found: [String] = []
        var next = environ
        while let entry = next.pointee {
            let text = String(cString: entry)
            if text.hasPrefix("OPENBLAS_") || text.hasPrefix("DCP_KERNELS") { found.append(text) }
            next += 1
        }
        return Array(found.sorted().prefix(32))
    }

    private static func hostName() -> String {
        var name = [CChar](repeating: 0, count: 256)
        guard gethostname(&name, name.count - 1) == 0 else { return "" }
        return String(decoding: name.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
    }

    /// RLIM_INFINITY is the greatest of its type.
    private static func limit(_ resource: __rlimit_resource) -> UInt64 {
        var limit = rlimit()
        guard getrlimit(Int32(resource.rawValue), &limit) == 0 else { return .max }
        return UInt64(limit.rlim_cur)
    }

    /// The word in brackets of `always [madvise] never`.
    static func chosen(in text: String) -> String {
        guard let start = text.firstIndex(of: "["), let end = text.firstIndex(of: "]"), start < end else { return "" }
        return String(text[text.index(after: start)..<end])
    }

    /// A small file's first line; empty when it cannot be read.
    package static func line(of path: String) -> String {
        guard let file = fopen(path, "re") else { return "" }
        defer { fclose(file) }
        var text = [CChar](repeating: 0, count: 4096)
        guard fgets(&text, Int32(text.count), file) != nil else { return "" }
        return String(decoding: text.prefix { $0 != 0 && $0 != 10 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
    }

    private static func names(in path: String) -> [String] {
        guard let directory = opendir(path) else { return [] }
        defer { closedir(directory) }
        var names: [String] = []
        while let entry = readdir(directory) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) { pointer in
                pointer.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            // The directory that is being read has a descriptor of its own.
            if !name.hasPrefix("."), name != "\(dirfd(directory))" { names.append(name) }
        }
        return names
    }
}
