// SPDX-License-Identifier: Apache-2.0

import ArgumentParser

/// A file that a command writes.
enum OutputFile {
    /// Refuses the name that other commands take for standard output: the file is not written from beginning to end.
    static func check(_ path: String, of argument: String) throws {
        guard path != "-" else {
            throw ValidationError(
                "\(argument) - would be standard output, but the file is complete only at the end; give a path, such as "
                    + "./- for a file of this name.")
        }
    }
}
