// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import DCPCore
import DCPTransport
import Glibc

/// This client's credentials for daemons over TCP.
struct TLSOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "For TCP: the certificates of the trusted authorities. Default: DCP_TLS_CA.", valueName: "file"))
    var tlsCa: String?

    @Option(
        help: ArgumentHelp(
            "For TCP: this client's certificate, with a role dcp:client:NAME. Default: DCP_TLS_CERTIFICATE.",
            valueName: "file"))
    var tlsCertificate: String?

    @Option(help: ArgumentHelp("For TCP: the certificate's key. Default: DCP_TLS_KEY.", valueName: "file"))
    var tlsKey: String?

    /// nil when nothing is given.
    /// - Throws: `.invalidConfiguration` for a part of the three, and for files that do not go.
    func credentials() throws(ServiceError) -> TLSCredentials? {
        let given = [
            ("--tls-ca (DCP_TLS_CA)", value(tlsCa, "DCP_TLS_CA")),
            ("--tls-certificate (DCP_TLS_CERTIFICATE)", value(tlsCertificate, "DCP_TLS_CERTIFICATE")),
            ("--tls-key (DCP_TLS_KEY)", value(tlsKey, "DCP_TLS_KEY")),
        ]
        let missing = given.filter { $0.1 == nil }.map(\.0)
        guard missing.count < given.count else { return nil }
        guard let authority = given[0].1, let certificate = given[1].1, let key = given[2].1 else {
            throw ServiceError(
                .invalidConfiguration,
                "TLS needs an authority, a certificate and its key; also give \(missing.joined(separator: " and ")).")
        }
        return try TLSCredentials(TLSFiles(authority: authority, certificate: certificate, key: key), for: nil)
    }

    private func value(_ flag: String?, _ variable: String) -> String? {
        flag ?? EnvironmentVariable.value(variable)
    }
}
