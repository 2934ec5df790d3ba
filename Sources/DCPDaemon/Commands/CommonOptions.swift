internal import ArgumentParser
internal import DCPCore

/// Options both daemons have that are no settings.
struct CommonOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "The configuration file (default: \(ConfigurationFile.defaultPath), which need not exist).",
            valueName: "file"))
    var config: String?

    @Flag(help: "Check the configuration, say what is wrong with it, and end: 0 when it is good, 64 or 78 when not.")
    var checkConfig = false

    @Flag(help: "Show every setting with its value, its default and where the value comes from, and end.")
    var printConfig = false

    @Flag(help: "With --print-config: as JSON, with the flag and the environment variable of each setting.")
    var json = false

    @Flag(help: "Stop when standard input ends, so that the daemon does not outlive the program that started it.")
    var stopOnStdinEof = false

    /// Whether the daemon only looks at its configuration.
    var isInspection: Bool { checkConfig || printConfig }

    func validate() throws {
        do throws(ServiceError) { try FailPoint.check() } catch { throw ValidationError(error.message) }
        guard !json || printConfig else { throw ValidationError("--json goes with --print-config.") }
    }

    /// Prints what was asked for about a configuration that is good.
    /// - Parameter condition: what that depends on; nil for nothing.
    func report(_ configuration: Configuration, condition: String?) throws {
        let report = ConfigurationReport(configuration: configuration)
        if printConfig { print(json ? try report.json() : report.text(), terminator: "") }
        if checkConfig { StandardError.write(condition ?? "The configuration is good.") }
    }
}
