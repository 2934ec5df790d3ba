// SPDX-License-Identifier: Apache-2.0

import DCPHost
import DCPTestKit
import DCPWire
import Foundation
import Testing

/// This process and this machine, whatever they are, against what the shell's tools say of them.
@Suite("looking at the host")
struct InspectionTests {
    private func output(_ command: String) throws -> String {
        let process = Process()
        process.executableURL = URL(filePath: "/bin/sh")
        process.arguments = ["-c", command]
        let pipe = Pipe()
        process.standardOutput = pipe
        try process.run()
        let data = try pipe.fileHandleForReading.readToEnd() ?? Data()
        process.waitUntilExit()
        return String(decoding: data, as: UTF8.self).trimmingCharacters(in: .whitespacesAndNewlines)
    }

    @Test("name, limits, clock and file system are the machine's")
    func host() throws {
        let directory = TemporaryDirectory()
        let before = UInt64(Date().timeIntervalSince1970 * 1e9)
        let report = HostInspection.report(store: directory.path("not/made/yet"))
        let after = UInt64(Date().timeIntervalSince1970 * 1e9)
        #expect(try report.hostName == output("uname -n"))
        #expect(report.processID == UInt32(getpid()) && report.userID == getuid())
        let limit = report.openFilesMax == .max ? "unlimited" : "\(report.openFilesMax)"
        #expect(try limit == output("ulimit -n"))
        #expect(report.openFiles >= 3)
        #expect(try report.bootID == output("cat /proc/sys/kernel/random/boot_id"))
        // A Double has some 256 ns of room here.
        #expect(report.wallNanoseconds + 1000 >= before && report.wallNanoseconds <= after + 1000)
        let disk = try #require(report.disk)
        #expect(disk.directory == directory.path)
        #expect(try disk.fileSystem == output("findmnt -n -o FSTYPE --target \(directory.path)"))
        #expect(try "\(disk.byteCount)" == output("df -B1 --output=size \(directory.path) | tail -1"))
    }

    @Test("special file systems have their names")
    func kinds() {
        #expect(HostInspection.report(store: "/proc").disk?.fileSystem == "proc")
        #expect(HostInspection.report(store: "/sys").disk?.fileSystem == "sysfs")
        #expect(HostInspection.report().disk == nil)
    }
}
