// SPDX-License-Identifier: Apache-2.0

internal import DCPClient
internal import DCPLocalCluster

extension Bench {
    /// Runs a body with a client of a fresh local cluster of real daemons, with one compute thread each. The daemons are
    /// stopped when it has ended, however it did.
    func withCluster<Value: Sendable>(ranks: Int, _ body: (Cluster) async throws -> Value) async throws -> Value {
        try await withCluster(ranks: ranks) { cluster, _ in try await body(cluster) }
    }

    /// The same for who also stops and starts its daemons.
    func withCluster<Value: Sendable>(
        ranks: Int, _ body: (Cluster, LocalCluster) async throws -> Value
    ) async throws -> Value {
        var options = LocalClusterOptions()
        options.ranks = ranks
        options.threadsPerRank = 1
        let local = try LocalCluster.start(in: LocalClusterDirectory(path: directory.fresh("c")), options: options)
        do {
            let cluster = try await StepContext.connect(local)
            do {
                let value = try await body(cluster, local)
                await cluster.close()
                await local.stop(deadline: .seconds(20))
                return value
            } catch {
                await cluster.close()
                throw error
            }
        } catch {
            await local.stop(deadline: .seconds(20))
            throw error
        }
    }
}
