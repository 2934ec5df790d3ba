// SPDX-License-Identifier: Apache-2.0

import DCPClient
import DCPCore
import DCPWire
import Testing
import dcpctl

@Suite("Doctor: what a report of a host tells")
struct HostChecksTests {
    /// A daemon that lacks nothing.
    private func report() -> HostReport {
        var report = HostReport(processID: 1, userID: 107)
        (report.hostName, report.bootID, report.hugePages) = ("node-1", "a", "madvise")
        (report.openFiles, report.openFilesMax, report.lockedByteCountMax) = (30, 4096, 8 << 20)
        report.disk = HostReport.Disk(
            directory: "/var/lib/dcp", fileSystem: "ext4", freeByteCount: 100 << 30, byteCount: 200 << 30)
        report.kernels = HostReport.Kernels(
            instructionSet: "avx2", fastest: "avx2", openBLASCore: "Haswell", openBLASCoreIsForcedOlder: false)
        return report
    }

    private func check(_ name: String, _ report: HostReport) throws -> Check {
        try #require(HostChecks.checks(report, of: "rank 2").first { $0.name == name })
    }

    @Test("nothing to complain of")
    func fine() {
        let checks = HostChecks.checks(report(), of: "rank 2")
        #expect(checks.count == 6)
        #expect(checks.allSatisfy { $0.status == .ok && $0.remedy.isEmpty && $0.subject == "rank 2" }, "\(checks)")
    }

    @Test(
        "disks by kind and room",
        arguments: [
            ("ext4", 100 << 30, Check.Status.ok, "ext4"), ("tmpfs", 100 << 30, .warning, "memory"),
            ("nfs4", 100 << 30, .failed, "network"), ("cifs", 100 << 30, .failed, "network"),
            ("9p", 100 << 30, .failed, "network"), ("fuse.sshfs", 100 << 30, .failed, "network"),
            ("ext4", 0, .failed, "full"), ("tmpfs", 0, .failed, "full"), ("xfs", 9 << 30, .warning, "Free space"),
            ("xfs", 11 << 30, .ok, "xfs"), ("", 100 << 30, .ok, "unknown"),
        ] as [(String, UInt64, Check.Status, String)])
    func disks(kind: String, free: UInt64, status: Check.Status, word: String) throws {
        var report = report()
        report.disk?.fileSystem = kind
        report.disk?.freeByteCount = free
        let check = try check("disk", report)
        #expect(check.status == status && (check.value + check.remedy).contains(word), "\(check)")
        #expect(check.value.contains("/var/lib/dcp"))
    }

    @Test("a store that does not exist is a warning that names what was inspected")
    func missingStore() throws {
        #expect(HostChecks.store("/var/lib/dcp", report(), of: "this host").isEmpty)
        let missing = try #require(HostChecks.store("/var/lib/dcp/rank-9", report(), of: "this host").first)
        #expect(missing.status == .warning && missing.remedy.contains("--store"))
        #expect(missing.value == "/var/lib/dcp/rank-9 does not exist; checked the disk of /var/lib/dcp")
        var unseen = report()
        unseen.disk = nil
        #expect(HostChecks.store("/var/lib/dcp", unseen, of: "this host").first?.status == .failed)
    }

    @Test(
        "open files",
        arguments: [(30, 4096, Check.Status.ok), (30, 512, .warning), (4090, 4096, .failed), (9, .max, .ok)]
            as [(UInt64, UInt64, Check.Status)])
    func files(open: UInt64, most: UInt64, status: Check.Status) throws {
        var report = report()
        (report.openFiles, report.openFilesMax) = (open, most)
        let check = try check("open files", report)
        #expect(check.status == status && check.remedy.contains("LimitNOFILE") == (status != .ok))
    }

    @Test("huge pages that are off, older kernels and an older OpenBLAS are warnings with a remedy")
    func warnings() throws {
        var report = report()
        report.hugePages = "never"
        report.kernels = HostReport.Kernels(
            instructionSet: "scalar", fastest: "avx512", openBLASCore: "Haswell", openBLASCoreIsForcedOlder: true)
        report.variables = ["DCP_KERNELS=scalar", "OPENBLAS_CORETYPE=Haswell"]
        for (name, word) in [
            ("huge pages", "madvise"), ("kernels", "DCP_KERNELS"), ("OpenBLAS", "OPENBLAS_CORETYPE"),
        ] {
            let check = try check(name, report)
            #expect(check.status == .warning && check.remedy.contains(word), "\(check)")
        }
        #expect(try check("OpenBLAS", report).value.contains("OPENBLAS_CORETYPE=Haswell"))
    }

    // MARK: Clocks and versions

    private func clocks(_ hosts: [(boot: String, offset: Duration, roundTrip: Duration)]) throws -> [Check] {
        let shape = try ClusterShape(
            ranks: hosts.count, headGroups: 1, interleave: 1, blockTokens: 16, exchange: .allToAll)
        let topology = Topology(
            epoch: Epoch(1), phase: .ready, reason: "", shape: shape, leaseMilliseconds: 5000,
            members: shape.allRanks.map { Topology.Member(rank: $0, endpoint: .unix(path: "/x")) },
            cluster: ClusterID(1))
        let daemons = zip(shape.allRanks, hosts).map { rank, host in
            var report = report()
            report.bootID = host.boot
            report.hostName = host.boot
            return DaemonFindings(
                rank: rank, endpoint: "unix:/x",
                answer: .success(HostAnswer(report: report, roundTrip: host.roundTrip, clockOffset: host.offset)))
        }
        return ClusterChecks.checks(topology, daemons, release: Release.current).filter { $0.name == "clock" }
    }

    @Test("clocks: one check a host, by its quickest answer, and never more certain than that answer")
    func clocks() throws {
        let checks = try clocks([
            ("a", .milliseconds(400), .seconds(1)), ("a", .milliseconds(3), .milliseconds(2)),
            ("b", .seconds(-20), .milliseconds(2)), ("c", .seconds(4000), .milliseconds(2)),
            ("d", .seconds(3), .seconds(6)),
        ])
        #expect(checks.map(\.subject) == ["a", "b", "c", "d"])
        #expect(checks.map(\.status) == [.ok, .warning, .failed, .ok], "\(checks)")
        #expect(checks[1].value.contains("behind") && checks[2].value.contains("ahead"))
        #expect(checks[3].value.contains("no difference seen"))
    }

    @Test("another release, a peer that is not reached, a daemon that does not answer")
    func daemons() throws {
        let shape = try ClusterShape(ranks: 2, headGroups: 1, interleave: 1, blockTokens: 16, exchange: .allToAll)
        let topology = Topology(
            epoch: Epoch(1), phase: .incomplete, reason: "rank 1 missing (gone)", shape: shape, leaseMilliseconds: 5000,
            members: [
                .init(rank: RankIndex(0), endpoint: .unix(path: "/x")), .init(rank: RankIndex(1), endpoint: nil),
            ],
            cluster: ClusterID(1))
        var old = report()
        old.release = "0.0.1"
        old.peers = [HostReport.Peer(rank: RankIndex(1), isReached: false)]
        let checks = ClusterChecks.checks(
            topology,
            [
                DaemonFindings(
                    rank: RankIndex(0), endpoint: "unix:/x",
                    answer: .success(HostAnswer(report: old, roundTrip: .zero, clockOffset: .zero))),
                DaemonFindings(
                    rank: RankIndex(1), endpoint: "",
                    answer: .failure(ServiceError(.rankUnavailable, "rank 1 is missing."))),
            ], release: Release.current)
        func status(_ name: String, _ subject: String) -> Check.Status? {
            checks.first { $0.name == name && $0.subject == subject }?.status
        }
        #expect(status("cluster", "all ranks") == .failed)
        #expect(status("version", "rank 0") == .warning)
        #expect(status("peers", "rank 0") == .failed)
        #expect(status("reachability", "rank 0") == .ok && status("reachability", "rank 1") == .failed)
    }
}
