internal import ArgumentParser
internal import DCPCore
internal import DCPTransport
internal import Logging

/// Options both daemons have.
struct CommonOptions: ParsableArguments {
    @Option(help: ArgumentHelp("Where to listen: unix:PATH or tcp:HOST:PORT.", valueName: "endpoint"))
    var listen: String

    @Flag(help: "Allow plain TCP, on loopback addresses only. Any local user can then reach the daemon.")
    var insecureLoopbackOnly = false

    @Option(help: ArgumentHelp("What to log: trace, debug, info, notice, warning, error.", valueName: "level"))
    var logLevel: String = "info"

    @Flag(help: "Stop when standard input ends, so that the daemon does not outlive the program that started it.")
    var stopOnStdinEof = false

    func endpoint() throws -> Endpoint {
        let endpoint = try checked { () throws(ServiceError) in try Endpoint(listen) }
        try checked { () throws(ServiceError) in
            try endpoint.checkPlainAllowed(insecureLoopbackOnly: insecureLoopbackOnly)
        }
        return endpoint
    }

    func level() throws -> Logger.Level {
        try checked { () throws(ServiceError) in try FailPoint.check() }
        guard let level = Logger.Level(rawValue: logLevel) else {
            throw ValidationError("`\(logLevel)` is not a log level; use trace, debug, info, notice, warning or error.")
        }
        return level
    }
}

/// A configuration error becomes a usage error, which ArgumentParser prints with the usage and exit status 64.
func checked<Value>(_ body: () throws(ServiceError) -> Value) throws -> Value {
    do throws(ServiceError) {
        return try body()
    } catch {
        throw ValidationError(error.message)
    }
}
