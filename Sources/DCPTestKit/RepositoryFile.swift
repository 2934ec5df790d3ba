// SPDX-License-Identifier: Apache-2.0

internal import Foundation

/// The path of a file of this repository, by its path from the repository's root.
public func repositoryFile(_ path: String) -> String {
    URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
        .appending(path: path).path
}
