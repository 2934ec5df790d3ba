// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import DCPConsole
internal import DCPCore

/// Options both daemons have that are no settings.
struct CommonOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "The configuration file (default: \(ConfigurationFile.defaultPath); it may be missing).",
            valueName: "file"))
    var config: String?

    @Flag(help: "Check the configuration, report errors and exit: with 0 if it is valid, otherwise with 64 or 78.")
    var checkConfig = false

    @Flag(help: "Show every setting with its value, its default and the source of the value, and exit.")
    var printConfig = false

    @Flag(help: "With --print-config: print JSON, including the flag and the environment variable of each setting.")
    var json = false

    @Flag(
        help: """
            Stop at end of file on standard input, so that the daemon does not outlive the program that started it.
            """)
    var stopOnStdinEof = false

    /// Whether the daemon only looks at its configuration.
    var isInspection: Bool { checkConfig || printConfig }

    func validate() throws {
        do throws(ServiceError) { try FailPoint.check() } catch { throw ValidationError(error.message) }
        guard !json || printConfig else { throw ValidationError("--json requires --print-config.") }
    }

    /// Prints what was asked for about a configuration that is good.
    /// - Parameter condition: what that depends on; nil for nothing.
    func report(_ configuration: Configuration, condition: String?) throws {
        let report = ConfigurationReport(configuration: configuration)
        if printConfig { try print(json ? try report.json() : report.text()) }
        if checkConfig { StandardError.write(condition ?? "The configuration is valid.") }
    }

    private func print(_ text: String) throws {
        do {
            try StandardOutput.write(text)
        } catch let gone as StandardOutput.ReaderGone {
            gone.endProgram()
        } catch let error as ServiceError {
            StandardError.write("Error: \(error.message)")
            throw ExitCode(ExitStatus(error).rawValue)
        }
    }
}
