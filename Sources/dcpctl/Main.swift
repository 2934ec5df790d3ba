// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import DCPClient
import DCPConsole
import DCPWire
import Glibc

@main
struct Main {
    static func main() async {
        // A reader of our output that goes away (`dcpctl status | head`) ends us quietly.
        signal(SIGPIPE, SIG_DFL)
        ArgumentBytes.requireUTF8()
        ProcessMemory.keepFreed()
        NegativeArgument.refuse(in: CommandLine.arguments)
        do {
            var command = try Dcpctl.parseAsRoot()
            if var command = command as? any AsyncParsableCommand { try await command.run() } else { try command.run() }
        } catch {
            let status = Dcpctl.exitCode(for: error)
            if status == .validationFailure {
                ErrorOutput.printUsage(Dcpctl.fullMessage(for: error))
                exit(status.rawValue)
            }
            Dcpctl.exit(withError: error)
        }
    }
}

struct Dcpctl: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "dcpctl",
        abstract: "Operates a DCP cluster: attention over KV caches sharded over ranks.",
        discussion: """
            Commands look for the coordinator at --coordinator, then at the environment variable DCP_COORDINATOR, then \
            at unix:/run/dcp/coordinator.sock. Data goes to standard output, messages to standard error.

            EXAMPLE
              dcpctl up --ranks 4 --detach
              export DCP_COORDINATOR=unix:$HOME/.local/state/dcp/coordinator.sock
              dcpctl submit prompt.safetensors --sequence chat-1 --output o.safetensors
              dcpctl status
              dcpctl down

            EXIT STATUS
            \(ExitStatus.list)
            """,
        version: Release.current,
        subcommands: [
            Up.self, Down.self, Submit.self, Status.self, Top.self, Ranks.self, Models.self, Sequences.self,
            Verify.self, Stores.self, Backup.self, Restore.self, Health.self, Doctor.self, Kernels.self,
            Certificates.self,
        ])
}
