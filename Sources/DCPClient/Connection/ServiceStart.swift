// SPDX-License-Identifier: Apache-2.0

package import DCPCore
internal import SystemPackage

/// How to start daemons, guessed from an address: units have their sockets in /run/dcp, and `dcpctl up` in its
/// directory. Only for messages, because it is unknown how they were started.
package enum ServiceStart {
    /// Of everything, as a sentence.
    package static func ofCluster(at coordinator: Endpoint) -> String {
        guard case .unix(let path) = coordinator else {
            return "Start it on its host with `systemctl start dcp.target`"
        }
        guard let directory = localDirectory(path) else { return "Start it with `systemctl start dcp.target`" }
        return "Start it with `\(up(directory))`"
    }

    /// Of one rank, as a command.
    /// - Parameter endpoint: of any daemon of its cluster.
    package static func of(_ rank: RankIndex, beside endpoint: Endpoint) -> String {
        if case .unix(let path) = endpoint, let directory = localDirectory(path) { return up(directory) }
        return "systemctl start dcp-rank@\(rank.value)"
    }

    private static func up(_ directory: String) -> String {
        "dcpctl up --dir \(ShellQuoting.quoted(directory))"
    }

    private static func localDirectory(_ path: String) -> String? {
        let directory = FilePath(path).directory.string
        return directory == "/run/dcp" ? nil : directory
    }
}
