// SPDX-License-Identifier: Apache-2.0

package import DCPCore
internal import Foundation

/// All that a configuration is read from, so that a reload can read it again. The file may have changed; flags and
/// environment cannot.
package struct ConfigurationSource: Sendable {
    package var settings: [Setting]
    package var rank: RankIndex?
    package var flags: [Setting: String]
    package var environment: [String: String]
    /// nil: the default path, where a file need not be.
    package var filePath: String?
    /// As `Configuration.isInspected`.
    package var isInspected = false

    package static let pathVariable = "DCP_CONFIG"

    package init(
        settings: [Setting], rank: RankIndex?, flags: [Setting: String], filePath: String?,
        environment: [String: String] = ProcessInfo.processInfo.environment
    ) {
        self.settings = settings
        self.rank = rank
        self.flags = flags
        // Set and empty is not set, as for every variable.
        self.environment = environment.filter { !$0.value.isEmpty }
        self.filePath = filePath ?? self.environment[Self.pathVariable]
    }

    /// - Throws: `ConfigurationError`.
    package func load() throws -> Configuration {
        let file: ConfigurationFile
        if let filePath {
            file = try ConfigurationFile(reading: filePath)
        } else if access(ConfigurationFile.defaultPath, F_OK) != 0, errno == ENOENT || errno == ENOTDIR {
            file = .absent(ConfigurationFile.defaultPath)
        } else {
            // Also one that cannot be reached, which is refused: without it a coordinator would make another cluster.
            file = try ConfigurationFile(reading: ConfigurationFile.defaultPath)
        }
        var configuration = try Configuration(
            settings: settings, rank: rank, flags: flags, environment: environment, file: file)
        configuration.isInspected = isInspected
        return configuration
    }
}
