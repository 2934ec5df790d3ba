// SPDX-License-Identifier: Apache-2.0

import DCPCore
import DCPLocalCluster
import Foundation

/// An older copy of rank 1's store in the place of its own, accepted: acknowledged commits are lost, and the soak must say so.
struct Sabotage {
    private let local: LocalCluster
    private let role = DaemonRole.rank(RankIndex(1))
    private var data: String { local.directory.data(of: role) + "/data.mdb" }
    private var copy: String { local.directory.path + "/older.mdb" }

    /// Takes the copy, of a store that is closed.
    init(_ local: LocalCluster) async throws {
        self.local = local
        try await local.kill(role)
        try FileManager.default.copyItem(atPath: data, toPath: copy)
        try local.start(role)
    }

    func strike() async throws {
        try await local.kill(role)
        try FileManager.default.removeItem(atPath: data)
        try FileManager.default.moveItem(atPath: copy, toPath: data)
        try await local.acceptOlderStore(of: RankIndex(1))
        try local.start(role)
    }
}
