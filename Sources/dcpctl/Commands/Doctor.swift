// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import DCPAttention
import DCPClient
import DCPConsole
import DCPCore
import DCPHost
import DCPTransport
import DCPWire
import Glibc

struct Doctor: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Check hosts, daemons and certificates, and suggest remedies.",
        discussion: """
            Checks this host and, if there is a cluster, all its daemons: whether they answer and reach each other, \
            their releases, clocks, limits, disks, stores and kernels. Without a coordinator (given by --coordinator \
            or DCP_COORDINATOR, or at the default address), it checks only this host. It changes nothing and sends no \
            step; `dcpctl health` does that.

            Exits with 69 if a check failed, and with 0 otherwise, even if there are warnings.

            EXAMPLE
              dcpctl doctor
              dcpctl doctor --store /var/lib/dcp/rank-0 --certificates /etc/dcp/certificates
              dcpctl doctor --json | jq '.checks[] | select(.status == "failed")'
            """)

    @Option(help: ArgumentHelp("Also check the disk of this store on this host.", valueName: "directory"))
    var store: String?

    @Option(
        help: ArgumentHelp(
            "Also check these certificates on this host: a directory or a file; may be repeated.",
            valueName: "path"))
    var certificates: [String] = []

    @OptionGroup var client: ClientOptions

    func run() async throws {
        try await execute {
            try KernelSelection.check()
            var report = HostInspection.report(store: store)
            report.kernels = HostReport.Kernels(.current)
            var checks = HostChecks.checks(report, of: "this host")
            if let store { checks += HostChecks.store(store, report, of: "this host") }
            for path in certificates { checks += CertificateChecks.checks(at: path) }
            var note = ""
            if try hasCluster() {
                checks += try await clusterChecks()
            } else {
                note = "No coordinator answers at \(try client.endpoint()): only this host was checked."
            }
            let view = DoctorView(checks: checks)
            try client.output.print(view) { view.text + (note.isEmpty ? "" : "\n\n\(note)") }
            guard view.failed == 0 else { throw ExitCode(ExitStatus.unavailable.rawValue) }
        }
    }

    /// A cluster that was named is expected to be there; at the default address it may be.
    private func hasCluster() throws(ServiceError) -> Bool {
        if client.coordinator != nil || EnvironmentVariable.value("DCP_COORDINATOR") != nil { return true }
        guard case .unix(let path) = try client.endpoint() else { return true }
        return access(path, F_OK) == 0
    }

    private func clusterChecks() async throws -> [Check] {
        let endpoint = "\(try client.endpoint())"
        var checks: [Check] = []
        do {
            try await client.withCluster { cluster in
                let topology = try await cluster.topology()
                let coordinator = await Self.findings(nil, endpoint, cluster, topology)
                // All at once: a host that is gone takes its time to be found out.
                let ranks = await withTaskGroup(of: DaemonFindings.self) { group in
                    for member in topology.members {
                        group.addTask {
                            await Self.findings(member.rank, member.endpoint.map { "\($0)" } ?? "", cluster, topology)
                        }
                    }
                    return await group.reduce(into: []) { $0.append($1) }
                }
                let sorted = ranks.sorted { $0.rank!.value < $1.rank!.value }
                checks = ClusterChecks.checks(topology, [coordinator] + sorted, release: Release.current)
            }
        } catch let error as ServiceError {
            // A command line that is wrong is nothing that was found.
            guard error.code != .invalidConfiguration else { throw error }
            checks = [ClusterChecks.unreachable(endpoint, error)]
        }
        return checks
    }

    private static func findings(
        _ rank: RankIndex?, _ endpoint: String, _ cluster: Cluster, _ topology: Topology
    ) async -> DaemonFindings {
        var findings: DaemonFindings
        do throws(ServiceError) {
            findings = DaemonFindings(
                rank: rank, endpoint: endpoint, answer: .success(try await cluster.hostReport(of: rank, in: topology)))
        } catch {
            return DaemonFindings(rank: rank, endpoint: endpoint, answer: .failure(error))
        }
        if let rank {
            do throws(ServiceError) {
                findings.status = try await cluster.rankStatus(of: rank, in: topology)
            } catch {
                findings.answer = .failure(error)
            }
        }
        return findings
    }
}

struct DoctorView: Encodable {
    var failed: Int
    var warnings: Int
    var checks: [Check]

    init(checks: [Check]) {
        failed = checks.count { $0.status == .failed }
        warnings = checks.count { $0.status == .warning }
        self.checks = checks
    }

    var text: String {
        var table = TextTable("STATUS", "CHECK", "OF", "VALUE", "LIMIT")
        for check in checks {
            table.append([check.status.rawValue, check.name, check.subject, check.value, check.limit])
        }
        let remedies = checks.filter { !$0.remedy.isEmpty }.map {
            "\($0.status): \($0.name) of \($0.subject): \($0.remedy)"
        }
        let sum = "\(checks.count) checks: \(failed) failed, \(warnings) warnings."
        return ([table.rendered()] + (remedies.isEmpty ? [] : [remedies.joined(separator: "\n")]) + [sum])
            .joined(separator: "\n\n")
    }
}
