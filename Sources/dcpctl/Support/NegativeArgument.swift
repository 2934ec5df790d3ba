// SPDX-License-Identifier: Apache-2.0

import DCPConsole
import Glibc

/// A negative number where a word is expected: the parser would call `-1` an unknown option, which says nothing of the length
/// that it was meant as.
enum NegativeArgument {
    static func refuse(in arguments: [String]) {
        for (before, argument) in zip(arguments, arguments.dropFirst()) {
            guard before != "--" else { return }
            guard !before.hasPrefix("-"), argument.hasPrefix("-"), Int(argument) != nil else { continue }
            printMessage("`\(argument)` is negative; lengths, positions and counts are 0 or more.")
            exit(ExitStatus.usage.rawValue)
        }
    }
}
