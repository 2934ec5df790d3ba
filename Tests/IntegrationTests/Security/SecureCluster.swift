// SPDX-License-Identifier: Apache-2.0

import DCPCertificates
import DCPClient
import DCPCore
import DCPLocalCluster
import DCPTestKit
import DCPTransport
import Foundation
import Testing

/// A cluster of real daemons over TLS, with certificates as `dcpctl certs init` makes them.
struct SecureCluster: Sendable {
    static let client = CertificateRole.client("alice")

    let certificates: CertificateDirectory
    let cluster: TestCluster
    private let credentials: TLSCredentials

    /// - Parameter arguments: for every daemon.
    static func run(
        ranks: Int = 2, arguments: [String] = [], _ body: (SecureCluster) async throws -> Void
    ) async throws {
        let directory = TemporaryDirectory()
        let certificates = CertificateDirectory(path: directory.path("certificates"))
        _ = try certificates.create(ranks: ranks, clients: ["alice"])
        func files(_ name: String) -> [String] {
            [
                "--tls-ca", certificates.path + "/ca.pem", "--tls-certificate", "\(certificates.path)/\(name).pem",
                "--tls-key", "\(certificates.path)/\(name)-key.pem",
            ]
        }
        var options = ClusterSetup(ranks: ranks, transport: .tcp).options
        options.coordinatorArguments = files("coordinator") + arguments
        options.rankArguments = files("rank-{rank}") + arguments
        let local = try LocalCluster.start(in: LocalClusterDirectory(path: directory.path("c")), options: options)
        do {
            let cluster = SecureCluster(
                certificates: certificates, cluster: TestCluster(directory: directory, local: local),
                credentials: try TLSCredentials(Self.files(of: client, in: certificates), for: nil))
            try await cluster.waitUntilReady()
            try await body(cluster)
            await local.stop(deadline: .seconds(30))
        } catch {
            await local.stop(deadline: .seconds(30))
            throw error
        }
    }

    static func files(of role: CertificateRole, in directory: CertificateDirectory) -> TLSFiles {
        let name =
            switch role {
            case .coordinator: "coordinator"
            case .rank(let rank): "rank-\(rank.value)"
            case .client(let name, _): "client-\(name)"
            }
        return TLSFiles(
            authority: directory.path + "/ca.pem", certificate: "\(directory.path)/\(name).pem",
            key: "\(directory.path)/\(name)-key.pem")
    }

    private func waitUntilReady() async throws {
        let credentials = credentials
        try await cluster.local.waitUntilReady(deadline: .seconds(90)) { endpoint async throws(ServiceError) in
            let client = try await Cluster.connectWhenReady(
                to: Endpoint(endpoint), wait: .seconds(90), tls: credentials)
            await client.close()
        }
    }

    func withClient<Result>(_ body: (Cluster) async throws -> Result) async throws -> Result {
        let client = try await Cluster.connectWhenReady(
            to: Endpoint(cluster.local.coordinatorEndpoint), wait: .seconds(90), tls: credentials,
            timeouts: Cluster.Timeouts(step: .seconds(60), request: .seconds(60)))
        do {
            let result = try await body(client)
            await client.close()
            return result
        } catch {
            await client.close()
            throw error
        }
    }

    var endpoints: [String] { [cluster.local.coordinatorEndpoint] + cluster.local.rankEndpoints }

    /// `dcpctl` as the client of a certificate.
    func tool(as role: CertificateRole = client, from directory: CertificateDirectory? = nil) -> CommandLineTool {
        let files = Self.files(of: role, in: directory ?? certificates)
        var tool = cluster.tool
        tool.environment = [
            "DCP_TLS_CA": certificates.path + "/ca.pem", "DCP_TLS_CERTIFICATE": files.certificate,
            "DCP_TLS_KEY": files.key,
        ]
        return tool
    }

    /// Writes a certificate that the cluster's own authority has signed.
    func issue(_ roles: [CertificateRole], validity: CertificateValidity = .leaf, as name: String) throws -> TLSFiles {
        func read(_ name: String) throws -> String {
            try String(contentsOfFile: "\(certificates.path)/\(name).pem", encoding: .utf8)
        }
        let authority = try CertificateAuthority(
            KeyedCertificate(certificatePEM: read("ca"), keyPEM: read("ca-key")))
        let pair = try authority.issue(roles, validity: validity)
        let files = TLSFiles(
            authority: certificates.path + "/ca.pem", certificate: cluster.directory.path("\(name).pem"),
            key: cluster.directory.path("\(name)-key.pem"))
        try Data(pair.certificatePEM.utf8).write(to: URL(filePath: files.certificate))
        try Data(pair.keyPEM.utf8).write(to: URL(filePath: files.key))
        return files
    }
}

extension TestCluster {
    /// Reads a daemon's log until it has a text. Ends with the test's time limit.
    func waitForLog(of role: DaemonRole, _ text: String) async throws {
        while try !log(of: role).contains(text) {
            try Task.checkCancellation()
            // A log has no event to wait for.
            try await Task.sleep(for: .milliseconds(20))
        }
    }

    /// Reads a daemon's log until it has told of refusals of one cause that many times.
    func waitForRefusals(of role: DaemonRole, cause: String, _ count: Int) async throws {
        func written() throws -> Int {
            try log(of: role).split(separator: "\n").count { $0.contains("Refused a connection (cause: \(cause),") }
        }
        while try written() < count {
            try Task.checkCancellation()
            try await Task.sleep(for: .milliseconds(20))
        }
        #expect(try written() == count)
    }
}
