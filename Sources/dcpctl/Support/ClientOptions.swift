// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import DCPClient
import DCPConsole
import DCPCore
import DCPTransport
import Glibc

/// How a command reaches a cluster, and how it prints.
struct ClientOptions: ParsableArguments {
    static let defaultCoordinator = "unix:/run/dcp/coordinator.sock"

    @Option(
        help: ArgumentHelp(
            "The coordinator's address: unix:PATH or tcp:HOST:PORT. Default: DCP_COORDINATOR, then "
                + "\(defaultCoordinator).",
            valueName: "endpoint"))
    var coordinator: String?

    @Option(help: ArgumentHelp("Timeout of a request: 500ms, 30s, 5m.", valueName: "duration"))
    var timeout: String = "30s"

    @OptionGroup var tls: TLSOptions

    @OptionGroup var output: OutputOptions

    func endpoint() throws(ServiceError) -> Endpoint {
        try Endpoint(
            coordinator ?? EnvironmentVariable.value("DCP_COORDINATOR") ?? Self.defaultCoordinator)
    }

    func with(coordinator: String) -> ClientOptions {
        var options = self
        options.coordinator = coordinator
        return options
    }

    /// A whole command: a body with a connected cluster, ended with its exit status.
    func execute(_ body: (Cluster) async throws -> Void) async throws {
        try await dcpctl.execute { try await withCluster(body) }
    }

    private func connect(
        _ endpoint: Endpoint, _ timeouts: Cluster.Timeouts, retryFor: Duration
    ) async throws(ServiceError) -> Cluster {
        do throws(ServiceError) {
            return try await Cluster.connect(
                to: endpoint, retryFor: retryFor, tls: try tls.credentials(), timeouts: timeouts)
        } catch {
            guard error.code == .unreachable else { throw error }
            throw ServiceError(
                .unreachable,
                "\(error.message) \(ServiceStart.ofCluster(at: endpoint)), or name another with --coordinator or DCP_COORDINATOR."
            )
        }
    }

    /// Runs a body with a connected cluster.
    /// - Parameter retryFor: how long the coordinator may be down at the beginning.
    func withCluster(retryFor: Duration = .zero, _ body: (Cluster) async throws -> Void) async throws {
        let duration = try DurationFormat.parse(timeout)
        let endpoint = try endpoint()
        let cluster = try await connect(
            endpoint, Cluster.Timeouts(step: duration, request: duration), retryFor: retryFor)
        do {
            try await body(cluster)
            await cluster.close()
        } catch {
            await cluster.close()
            throw error
        }
    }
}

struct OutputOptions: ParsableArguments {
    @Flag(help: "Print JSON instead of tables; an error is a line of JSON, the last one on standard error.")
    var json = false

    /// Prints a value: as JSON, or as text made for people.
    func print(_ value: some Encodable, text: () -> String) throws {
        try StandardOutput.write(json ? JSONOutput.string(value) : text() + "\n")
    }
}

/// Runs a command's body and ends with its exit status; the error goes to standard error, once.
func execute(_ body: () async throws -> Void) async throws {
    do {
        try await body()
    } catch let error as ServiceError {
        ErrorOutput.print(error)
        throw ExitCode(ExitStatus(error).rawValue)
    } catch let gone as StandardOutput.ReaderGone {
        gone.endProgram()
    } catch is CancellationError {
        printMessage("interrupted")
        throw ExitCode(128 + SIGINT)
    }
}

/// A message for people: on standard error, with the program's name.
func printMessage(_ text: String) {
    let bytes = Array("dcpctl: \(text)\n".utf8)
    // If a message cannot be written, the failure cannot be reported either.
    _ = write(STDERR_FILENO, bytes, bytes.count)
}
