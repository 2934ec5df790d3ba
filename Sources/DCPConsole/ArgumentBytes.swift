// SPDX-License-Identifier: Apache-2.0

internal import Glibc

/// The command line before Swift has made text of it.
public enum ArgumentBytes {
    /// Ends the program when an argument is not UTF-8: `CommandLine.arguments` has replacement characters where the bytes
    /// were, so two names would become one.
    public static func requireUTF8() {
        for index in 1..<max(1, Int(CommandLine.argc)) {
            guard let argument = CommandLine.unsafeArgv[index], String(validatingCString: argument) == nil else {
                continue
            }
            let message = Array("Error: \(refusal(of: String(cString: argument), at: index))\n".utf8)
            // If a message cannot be written, the failure cannot be reported either.
            _ = write(STDERR_FILENO, message, message.count)
            exit(ExitStatus.usage.rawValue)
        }
    }

    private static func refusal(of shown: String, at index: Int) -> String {
        "Argument \(index), `\(shown)`, is not UTF-8; names and paths must be UTF-8."
    }
}
