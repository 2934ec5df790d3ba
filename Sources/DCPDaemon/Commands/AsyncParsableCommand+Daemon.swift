// SPDX-License-Identifier: Apache-2.0

public import ArgumentParser

extension AsyncParsableCommand {
    /// A daemon's `main()`, which does not let a wrong command line end in a loop of starts.
    public static func runDaemon() async {
        do {
            var command = try parseAsRoot()
            if var daemon = command as? any AsyncParsableCommand {
                try await daemon.run()
            } else {
                try command.run()
            }
        } catch {
            if !exitCode(for: error).isSuccess { Runtime.pauseIfActivated() }
            exit(withError: error)
        }
    }
}
