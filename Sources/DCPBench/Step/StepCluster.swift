// SPDX-License-Identifier: Apache-2.0

internal import DCPCertificates
internal import DCPClient
internal import DCPCore
internal import DCPLocalCluster
internal import DCPTransport

/// A local cluster of real daemons for steps, connected as a load asks for.
struct StepCluster: Sendable {
    let local: LocalCluster
    let tls: TLSCredentials?

    static func start(
        ranks: Int, threads: Int, _ exchange: Exchange, _ load: StepLoad, _ bench: Bench
    ) throws -> StepCluster {
        let connection = load.connection
        var options = LocalClusterOptions()
        options.ranks = ranks
        options.threadsPerRank = threads
        options.exchange = exchange
        options.transport = connection == .unix ? .unix : .tcp
        options.rankArguments = ["--shared-memory", load.sharesMemory ? "on" : "off"]
        var tls: TLSCredentials?
        if connection == .tls {
            let certificates = CertificateDirectory(path: bench.directory.fresh("t"))
            _ = try certificates.create(ranks: ranks, clients: ["benchmark"])
            let files = { (name: String) in
                TLSFiles(
                    authority: certificates.path + "/ca.pem", certificate: "\(certificates.path)/\(name).pem",
                    key: "\(certificates.path)/\(name)-key.pem")
            }
            options.coordinatorArguments = arguments(files("coordinator"))
            options.rankArguments += arguments(files("rank-{rank}"))
            tls = try TLSCredentials(files("client-benchmark"), for: nil)
        }
        let local = try LocalCluster.start(
            in: LocalClusterDirectory(path: bench.directory.fresh("c")), options: options)
        return StepCluster(local: local, tls: tls)
    }

    private static func arguments(_ files: TLSFiles) -> [String] {
        ["--tls-ca", files.authority, "--tls-certificate", files.certificate, "--tls-key", files.key]
    }

    private init(local: LocalCluster, tls: TLSCredentials?) {
        self.local = local
        self.tls = tls
    }

    /// A client of the cluster, once it is ready.
    func connect() async throws -> Cluster { try await StepContext.connect(local, tls: tls) }
}
