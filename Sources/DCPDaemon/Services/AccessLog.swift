internal import DCPCore
internal import DCPTransport
internal import Foundation
internal import Logging

/// What the journal is told of who may connect.
extension DaemonLog {
    /// How the daemon is reached, by whom, and as whom it answers.
    func listening(_ endpoint: String, _ link: LinkSettings) {
        var metadata: Logger.Metadata = ["endpoint": "\(endpoint)", "callers": "\(link.callers(at: endpoint))"]
        if let tls = link.tls { metadata.merge(Self.describe(tls)) { $1 } }
        logger.notice("Listening", metadata: metadata)
    }

    /// Takes the certificate files anew. What is refused leaves those that are held.
    func reload(_ tls: TLSCredentials?, _ configuration: Configuration, _ keys: AccessKeys) {
        do {
            guard let files = try configuration.tlsFiles(keys) else {
                guard tls != nil else { return }
                throw ServiceError(
                    .invalidConfiguration, "TLS cannot be turned off at run time; restart the daemon for plain TCP.")
            }
            guard let tls else {
                throw ServiceError(
                    .invalidConfiguration, "TLS cannot be turned on at run time; restart the daemon to have it.")
            }
            guard try tls.reload(files) else {
                guard Configuration.areCredentials(files) else { return }
                return logger.notice(
                    """
                    Certificates are as they were: systemd reads a unit's credentials when it starts the unit, so new ones \
                    take a restart
                    """,
                    metadata: Self.describe(tls))
            }
            write(
                .configurationReloaded, .notice, "Certificates read again, for connections from now on",
                Self.describe(tls))
        } catch {
            let reason = (error as? ServiceError)?.message ?? "\(error)"
            write(
                .configurationRefused, .error, "Certificates refused, going on with those held",
                ["reason": "\(reason)"])
        }
    }

    private static func describe(_ tls: TLSCredentials) -> Logger.Metadata {
        let end = Date(timeIntervalSince1970: Double(tls.notAfter)).formatted(.iso8601)
        return ["certificate": "\(tls.roleList)", "certificate-ends": "\(end)"]
    }
}
