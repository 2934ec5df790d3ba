internal import DCPCore
internal import Glibc
internal import Logging
internal import ServiceLifecycle
internal import UnixSignals

/// What both daemons do around their service: log, obey signals, end with the right status.
enum Runtime {
    /// Runs a service until SIGTERM or SIGINT, the end of the lifeline, or its own failure; then exits the process.
    ///
    /// Exit status (sysexits.h): 0 after a graceful stop, 69 when it could not serve, 70 for a bug, 78 for a
    /// configuration, a store or a cluster that does not fit; systemd does not restart after 78.
    static func run(_ service: some Service, logger: Logger, stopOnStandardInputEnd: Bool) async -> Never {
        signal(SIGPIPE, SIG_IGN)
        var services = [
            ServiceGroupConfiguration.ServiceConfiguration(
                service: service, successTerminationBehavior: .gracefullyShutdownGroup,
                failureTerminationBehavior: .gracefullyShutdownGroup)
        ]
        if stopOnStandardInputEnd {
            services.append(.init(service: Lifeline(), successTerminationBehavior: .gracefullyShutdownGroup))
        }
        // The group's own narration of its shutdown is not an operator's business.
        var quiet = logger
        quiet.logLevel = .critical
        let group = ServiceGroup(
            configuration: ServiceGroupConfiguration(
                services: services, gracefulShutdownSignals: [.sigterm, .sigint], logger: quiet))
        do {
            try await group.run()
            logger.notice("Stopped")
            exit(0)
        } catch let error as ServiceError {
            logger.critical("Stopping: \(error.message)", metadata: ["error": "\(error.code)"])
            exit(status(of: error))
        } catch {
            logger.critical("Stopping: \(error)")
            exit(70)
        }
    }

    static func logger(_ label: String, level: Logger.Level) -> Logger {
        LoggingSystem.bootstrap { StreamLogHandler.standardError(label: $0) }
        var logger = Logger(label: label)
        logger.logLevel = level
        return logger
    }

    private static func status(of error: ServiceError) -> Int32 {
        switch error.code {
        case .invalidConfiguration, .storeRefused, .storeDamaged, .incompatible, .conflict: 78
        case .internal: 70
        default: 69
        }
    }
}
