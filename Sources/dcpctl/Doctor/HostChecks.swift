// SPDX-License-Identifier: Apache-2.0

public import DCPAttention
internal import DCPConsole
public import DCPWire

/// Checks of one host report, of a daemon or of this tool.
public enum HostChecks {
    /// As many files as the shipped unit's limit leaves for links would need a limit of 4096; below this the system's own
    /// default was lowered.
    static let openFilesMin: UInt64 = 1024
    /// Fewer left, and the next clients are turned away.
    static let openFilesLeftMin: UInt64 = 32

    /// - Parameter subject: whose report it is: `this host`, `rank 2`.
    public static func checks(_ report: HostReport, of subject: String) -> [Check] {
        [openFiles(report, subject), lockedMemory(report, subject), hugePages(report, subject)]
            + (report.disk.map { [DiskChecks.check($0, of: subject)] } ?? [])
            + (report.kernels.map { [kernels($0, subject), openBLAS($0, report.variables, subject)] } ?? [])
    }

    /// Of a store that was asked for: whether it is what the report tells of.
    public static func store(_ directory: String, _ report: HostReport, of subject: String) -> [Check] {
        guard let disk = report.disk else {
            return [
                .failed(
                    "disk", subject, "\(directory) cannot be inspected", limit: "a local disk",
                    remedy: "Check the path and its permissions.")
            ]
        }
        guard disk.directory != directory else { return [] }
        return [
            .warning(
                "store", subject, "\(directory) does not exist; checked the disk of \(disk.directory)",
                limit: "a directory",
                remedy: "Correct --store, unless a daemon is yet to create the directory.")
        ]
    }

    private static func openFiles(_ report: HostReport, _ subject: String) -> Check {
        let (open, most) = (report.openFiles, report.openFilesMax)
        let value = "\(open) open of \(most == .max ? "unlimited" : "\(most)")"
        let limit = "\(openFilesLeftMin) free, \(openFilesMin) in all"
        let remedy =
            "Raise LimitNOFILE= of the unit (`systemctl edit`), or `ulimit -n`, to 4096; each client and rank needs "
            + "one."
        if most < open + openFilesLeftMin {
            return .failed("open files", subject, value, limit: limit, remedy: remedy)
        }
        guard most >= openFilesMin else {
            return .warning("open files", subject, value, limit: limit, remedy: remedy)
        }
        return .ok("open files", subject, value, limit: limit)
    }

    /// Nothing here locks memory: the store is mapped and left to the page cache.
    private static func lockedMemory(_ report: HostReport, _ subject: String) -> Check {
        let most = report.lockedByteCountMax
        return .ok(
            "locked memory", subject, most == .max ? "unlimited" : ByteFormat.format(Int(clamping: most)),
            limit: "any: nothing is locked")
    }

    /// Blocks in memory ask for huge pages, which `madvise` gives; pages of the store's file cannot be huge.
    private static func hugePages(_ report: HostReport, _ subject: String) -> Check {
        let limit = "madvise or always"
        switch report.hugePages {
        case "madvise", "always": return .ok("huge pages", subject, report.hugePages, limit: limit)
        default:
            return .warning(
                "huge pages", subject, report.hugePages.isEmpty ? "not in this kernel" : report.hugePages, limit: limit,
                remedy:
                    "Write `madvise` to /sys/kernel/mm/transparent_hugepage/enabled: huge pages make appends faster. "
                    + "The store's file does not use them.")
        }
    }

    private static func kernels(_ kernels: HostReport.Kernels, _ subject: String) -> Check {
        guard kernels.instructionSet != kernels.fastest else {
            return .ok("kernels", subject, kernels.instructionSet, limit: kernels.fastest)
        }
        return .warning(
            "kernels", subject, kernels.instructionSet, limit: kernels.fastest,
            remedy: "DCP_KERNELS forces slower kernels than this CPU supports; unset it.")
    }

    private static func openBLAS(_ kernels: HostReport.Kernels, _ variables: [String], _ subject: String) -> Check {
        let set = variables.filter { $0.hasPrefix("OPENBLAS_") }
        let value = ([kernels.openBLASCore] + set).joined(separator: ", ")
        let limit = "chosen by the CPU"
        guard kernels.openBLASCoreIsForcedOlder else { return .ok("OpenBLAS", subject, value, limit: limit) }
        return .warning(
            "OpenBLAS", subject, value, limit: limit,
            remedy:
                "OPENBLAS_CORETYPE forces an older core than this CPU; unset it. It matters with scalar kernels, "
                + "where prefill runs on OpenBLAS.")
    }
}

extension HostReport.Kernels {
    /// What a selection is, beside the fastest that the machine has.
    public init(_ selection: KernelSelection) {
        self.init(
            instructionSet: selection.instructionSet, fastest: selection.fastest,
            openBLASCore: selection.openBLASCore, openBLASCoreIsForcedOlder: selection.openBLASCoreIsForcedOlder)
    }
}
