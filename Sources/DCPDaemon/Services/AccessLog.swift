// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPTransport
internal import Foundation
internal import Logging

/// Journal entries about access.
extension DaemonLog {
    /// How the daemon is reached, by whom, and as whom it answers.
    func listening(_ endpoint: String, _ link: LinkSettings) {
        var metadata: Logger.Metadata = ["endpoint": "\(endpoint)", "callers": "\(link.callers(at: endpoint))"]
        if let tls = link.tls { metadata.merge(Self.describe(tls)) { $1 } }
        logger.notice("Listening", metadata: metadata)
    }

    /// Reloads the certificate files. If they are refused, the current ones stay.
    func reload(_ tls: TLSCredentials?, _ configuration: Configuration, _ keys: AccessKeys) {
        do {
            guard let files = try configuration.tlsFiles(keys) else {
                guard tls != nil else { return }
                throw ServiceError(
                    .invalidConfiguration, "TLS cannot be disabled at run time; restart the daemon to use plain TCP.")
            }
            guard let tls else {
                throw ServiceError(
                    .invalidConfiguration, "TLS cannot be enabled at run time; restart the daemon to use it.")
            }
            guard try tls.reload(files) else {
                guard Configuration.areCredentials(files) else { return }
                return logger.notice(
                    """
                    Certificates are unchanged: systemd reads a unit's credentials when it starts the unit, so new \
                    ones need a restart
                    """,
                    metadata: Self.describe(tls))
            }
            write(
                .configurationReloaded, .notice, "Certificates reloaded for new connections",
                Self.describe(tls))
        } catch {
            let reason = (error as? ServiceError)?.message ?? "\(error)"
            write(
                .configurationRefused, .error, "Certificates refused, keeping the current ones",
                ["reason": "\(reason)"])
        }
    }

    private static func describe(_ tls: TLSCredentials) -> Logger.Metadata {
        let end = Date(timeIntervalSince1970: Double(tls.notAfter)).formatted(.iso8601)
        return ["certificate": "\(tls.roleList)", "certificate-ends": "\(end)"]
    }
}
