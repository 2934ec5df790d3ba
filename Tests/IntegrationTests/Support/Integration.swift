// SPDX-License-Identifier: Apache-2.0

import DCPAttention
import DCPClient
import DCPCore
import DCPLocalCluster
import DCPTestKit
import DCPTransport
import Foundation
import Synchronization
import Testing

/// Every suite of this target is inside this one: it is serialized, so that at most two clusters run at a time.
@Suite("integration", .serialized)
enum Integration {}

/// What a cluster of real daemons is started with.
struct ClusterSetup: Sendable, CustomTestStringConvertible {
    var ranks = 2
    var headGroups = 1
    var interleave = 1
    var blockTokens = 16
    var exchange = Exchange.allToAll
    var threads = 1
    var transport = LocalClusterConfiguration.Transport.unix
    var rankArguments: [String] = []
    var coordinatorArguments: [String] = []
    var environment: [String: String] = [:]
    /// What the ranks compute with, such as `avx2`; nil is this machine's fastest.
    var kernels: String?

    var contextRanks: Int { ranks / headGroups }

    var testDescription: String {
        "\(ranks) ranks, \(headGroups) head groups, I \(interleave), B \(blockTokens), \(exchange.name)"
            + (kernels.map { ", \($0)" } ?? "")
    }

    var options: LocalClusterOptions {
        var options = LocalClusterOptions()
        options.ranks = ranks
        options.headGroups = headGroups
        options.interleave = interleave
        options.blockTokens = blockTokens
        options.exchange = exchange
        options.transport = transport
        options.threadsPerRank = threads
        options.rankArguments = rankArguments
        options.coordinatorArguments = coordinatorArguments
        // Chosen, and not measured at each start: the suite starts hundreds of ranks.
        options.environment = [Prefetch.variable: "\(Prefetch.first)"].merging(environment) { $1 }
        options.environment[KernelSelection.variable] = kernels
        options.binDirectory = Binaries.directory
        return options
    }

    /// Runs a body with a fresh cluster that is ready, and takes it down afterwards.
    func run<Result>(_ body: (TestCluster) async throws -> Result) async throws -> Result {
        let directory = TemporaryDirectory()
        let cluster = try TestCluster(
            directory: directory,
            local: LocalCluster.start(in: LocalClusterDirectory(path: directory.path("c")), options: options))
        do {
            try await cluster.waitUntilReady()
            let result = try await body(cluster)
            await cluster.local.stop(deadline: .seconds(30))
            return result
        } catch {
            await cluster.local.stop(deadline: .seconds(30))
            throw error
        }
    }
}

/// A running cluster and its directory.
struct TestCluster: Sendable {
    let directory: TemporaryDirectory
    let local: LocalCluster

    func waitUntilReady() async throws {
        try await local.waitUntilReady(deadline: .seconds(90)) { endpoint async throws(ServiceError) in
            let cluster = try await Cluster.connectWhenReady(to: Endpoint(endpoint), wait: .seconds(90))
            await cluster.close()
        }
    }

    /// Runs a body with a client of its own.
    func withClient<Result>(
        step timeout: Duration = .seconds(60), _ body: (Cluster) async throws -> Result
    ) async throws -> Result {
        let cluster = try await Cluster.connectWhenReady(
            to: Endpoint(local.coordinatorEndpoint), wait: .seconds(90),
            timeouts: Cluster.Timeouts(step: timeout, request: .seconds(60)))
        do {
            let result = try await body(cluster)
            await cluster.close()
            return result
        } catch {
            await cluster.close()
            throw error
        }
    }

    /// Runs a body with as many clients, each with connections of its own.
    func withClients<Result>(_ count: Int, _ body: ([Cluster]) async throws -> Result) async throws -> Result {
        var clients: [Cluster] = []
        func close() async { for client in clients { await client.close() } }
        do {
            while clients.count < count {
                clients.append(try await Cluster.connect(to: Endpoint(local.coordinatorEndpoint)))
            }
            let result = try await body(clients)
            await close()
            return result
        } catch {
            await close()
            throw error
        }
    }

    func log(of role: DaemonRole) throws -> String {
        try String(contentsOfFile: local.directory.log(of: role), encoding: .utf8)
    }
}

enum Binaries {
    /// Where the daemons are: `DCP_BIN_DIR`, or beside the test bundle.
    static let directory: String = {
        if let given = ProcessInfo.processInfo.environment["DCP_BIN_DIR"] { return given }
        let running = (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")) ?? ""
        let beside = URL(filePath: running).deletingLastPathComponent().path
        return FileManager.default.isExecutableFile(atPath: beside + "/dcp-rank")
            ? beside : repositoryFile(".build/release")
    }()
}

/// Runs what blocks on a thread of its own: the threads that tasks share are few.
func onOwnThread<Value: Sendable>(_ body: @escaping @Sendable () throws -> Value) async throws -> Value {
    try await withCheckedThrowingContinuation { continuation in
        Thread.detachNewThread { continuation.resume(with: Swift.Result { try body() }) }
    }
}

/// Names that no other case of this process uses.
enum Fresh {
    private static let next = Atomic<Int>(0)

    static func name(_ stem: String) -> String {
        "\(stem)-\(next.add(1, ordering: .relaxed).newValue)"
    }
}
