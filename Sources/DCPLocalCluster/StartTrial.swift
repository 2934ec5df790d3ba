// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import Foundation

/// What a start writes before the daemons have checked it. If one of them refuses it, all of it is taken back: the next
/// `up` would fail because of an option that it was not given.
struct StartTrial: Sendable {
    private let directory: LocalClusterDirectory
    private let former: LocalClusterConfiguration?
    /// Stores that a first start creates.
    private let created: [String]
    var isRefused = false

    init(
        in directory: LocalClusterDirectory, former: LocalClusterConfiguration?,
        _ configuration: LocalClusterConfiguration
    ) {
        self.directory = directory
        self.former = former
        let stores = configuration.roles.map(directory.data)
        created = former == nil ? stores.filter { !FileManager.default.fileExists(atPath: $0) } : []
    }

    /// Restores what there was, once all daemons are stopped. New stores have a shape that the next `up` may not want,
    /// and no client's data: the cluster was never ready.
    func takeBack() {
        // The refusal is more important than a file that cannot be written or removed.
        if let former {
            try? directory.writeConfiguration(former)
        } else {
            for path in created + [directory.configurationFile] { try? FileManager.default.removeItem(atPath: path) }
        }
    }
}
