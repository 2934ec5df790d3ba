// SPDX-License-Identifier: Apache-2.0

internal import DCPCore

/// The endpoint's and the canary's part of a daemon's configuration.
struct ObservabilitySettings: Sendable {
    /// nil: off.
    var http: HTTPAddress?
    /// How often a canary goes through the ranks; nil: never.
    var canaryInterval: Duration?

    /// - Throws: `ConfigurationError` for an address that others reach and that was not asked for by name.
    init(
        _ configuration: Configuration, http key: ConfigurationKey<HTTPAddress?>, anyAddress: ConfigurationKey<Bool>,
        canaryInterval interval: ConfigurationKey<Duration?>
    ) throws {
        http = configuration[key]
        if let http, !http.isLocal, !configuration[anyAddress] {
            try configuration.checked([key.setting, anyAddress.setting]) { () throws(ServiceError) in
                throw ServiceError(
                    .invalidConfiguration,
                    "\(http) is not a loopback address, and the endpoint does not authenticate requests; use "
                        + "127.0.0.1:PORT or a Unix socket, or pass \(anyAddress.setting.flag) if the network is trusted."
                )
            }
        }
        canaryInterval = configuration[interval]
    }
}
