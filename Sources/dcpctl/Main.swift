// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import DCPClient
import DCPConsole
import DCPWire
import Glibc

@main
struct Main {
    static func main() async {
        // A reader of our output that goes away (`dcpctl --help | head`) ends us quietly; see `StandardOutput` for later.
        signal(SIGPIPE, SIG_DFL)
        StandardOutput.reserveClosedStreams()
        ArgumentBytes.requireUTF8()
        ProcessMemory.keepFreed()
        NegativeArgument.refuse(in: CommandLine.arguments)
        do {
            var command = try Dcpctl.parseAsRoot()
            if var command = command as? any AsyncParsableCommand { try await command.run() } else { try command.run() }
        } catch {
            let status = Dcpctl.exitCode(for: error)
            let text = Dcpctl.fullMessage(for: error)
            if status == .validationFailure {
                ErrorOutput.printUsage(text)
                exit(status.rawValue)
            }
            if status == .success, !text.isEmpty { await Self.printHelp(text) }
            Dcpctl.exit(withError: error)
        }
    }
}

extension Main {
    /// What was asked for by `--help`, `--version` and the like.
    private static func printHelp(_ text: String) async -> Never {
        do { try await execute { try StandardOutput.write(text + "\n") } } catch { Dcpctl.exit(withError: error) }
        exit(ExitStatus.success.rawValue)
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
