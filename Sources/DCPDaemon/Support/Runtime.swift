// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import DCPCore
internal import Glibc
internal import Logging
internal import ServiceLifecycle
internal import UnixSignals

/// A daemon's service: runs until it is stopped, and applies settings that can change at run time.
protocol DaemonService: Service {
    var reload: Reload { get }
    func apply(_ configuration: Configuration)
    /// Services that begin before the main service and end after it.
    var companions: [any Service] { get }
}

/// The common frame of both daemons: logging, signals and exit statuses.
enum Runtime {
    /// Runs a service until SIGTERM or SIGINT, the end of the lifeline, or its own failure; then exits the process.
    /// SIGHUP reloads the configuration.
    ///
    /// Exit status (sysexits.h): 0 after a graceful stop, 69 when it could not serve, 70 for a bug, 78 for a
    /// configuration, a store or a cluster that does not fit; systemd does not restart after 78.
    static func run(
        _ service: some DaemonService, log: DaemonLog, stopOnStandardInputEnd: Bool
    ) async -> Never {
        signal(SIGPIPE, SIG_IGN)
        let services = services(of: service, log: log, stopOnStandardInputEnd: stopOnStandardInputEnd)
        // The group's own narration of its shutdown is not an operator's business.
        let quiet = Logger(label: "service-group") { _ in SwiftLogNoOpLogHandler() }
        let group = ServiceGroup(
            configuration: ServiceGroupConfiguration(
                services: services, gracefulShutdownSignals: [.sigterm, .sigint], logger: quiet))
        do {
            try await group.run()
            log.logger.notice("Stopped")
            exit(0)
        } catch let error as ServiceError {
            // A store that does not open is the operator's first concern; the exit is the same.
            let event: JournalEvent = error.code == .storeDamaged ? .storeDamaged : .stoppedByFailure
            log.write(event, .critical, "Stopping: \(error.message)", ["error": "\(error.code)"])
            end(status(of: error))
        } catch {
            log.write(.stoppedByFailure, .critical, "Stopping: \(error)")
            exit(70)
        }
    }

    /// A group begins them in this order and stops them in the reverse one.
    ///
    /// Not a part of `run`: in an async function that never returns the optimizer of Swift 6.3.1 lets go of the service before
    /// it is copied into the group.
    @inline(never)
    private static func services(
        of service: some DaemonService, log: DaemonLog, stopOnStandardInputEnd: Bool
    ) -> [ServiceGroupConfiguration.ServiceConfiguration] {
        var services = service.companions.map {
            ServiceGroupConfiguration.ServiceConfiguration(
                service: $0, successTerminationBehavior: .gracefullyShutdownGroup,
                failureTerminationBehavior: .gracefullyShutdownGroup)
        }
        services.append(
            .init(
                service: service, successTerminationBehavior: .gracefullyShutdownGroup,
                failureTerminationBehavior: .gracefullyShutdownGroup))
        let reload = ReloadService(reload: service.reload, log: log) { service.apply($0) }
        services.append(.init(service: reload, successTerminationBehavior: .ignore))
        if stopOnStandardInputEnd {
            services.append(.init(service: Lifeline(), successTerminationBehavior: .gracefullyShutdownGroup))
        }
        return services
    }

    /// Reads the configuration; a refusal is also an entry of the journal, where an operator looks for it.
    static func refusing<Result>(_ load: () throws -> Result) throws -> Result {
        do {
            return try load()
        } catch let error as ConfigurationError {
            if Journal.isConnected {
                let program = CommandLine.arguments[0].split(separator: "/").last.map(String.init) ?? "dcp"
                let log = DaemonLog(label: program, level: .info)
                log.write(.configurationRefused, .critical, "\(error.message)")
                end(error.status.rawValue)
            }
            if error.status == .configuration {
                StandardError.write("Error: \(error.message)")
                exit(error.status.rawValue)
            }
            throw ValidationError(error.message)
        }
    }

    /// Exits because of a failure.
    private static func end(_ status: Int32) -> Never {
        if ConfigurationError.Status(rawValue: status) != nil { pauseIfActivated() }
        exit(status)
    }

    /// Before the exit because of a permanent failure. If systemd passed a socket, a waiting client would make it start this
    /// daemon again immediately, in a loop: a pause turns this into a retry, which finds what was corrected.
    static func pauseIfActivated() {
        if ServiceManager.hasPassedSockets { _ = sleep(retryPause) }
    }

    private static let retryPause: UInt32 = 5

    private static func status(of error: ServiceError) -> Int32 {
        switch error.code {
        case .invalidConfiguration, .storeRefused, .storeDamaged, .incompatible, .conflict: 78
        case .internal: 70
        default: 69
        }
    }
}
