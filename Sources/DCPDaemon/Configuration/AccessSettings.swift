// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPTransport
internal import Glibc
internal import NIOCore

/// Who may talk to a daemon, from its configuration.
extension Configuration {
    /// The TLS files that are configured, or that systemd has passed as credentials; nil when there are none.
    /// - Parameter credentials: `$CREDENTIALS_DIRECTORY`.
    /// - Throws: `ConfigurationError` for a part of the three.
    func tlsFiles(
        _ keys: AccessKeys, credentials: String? = EnvironmentVariable.value("CREDENTIALS_DIRECTORY")
    ) throws -> TLSFiles? {
        let names = ["ca.pem", "certificate.pem", "key.pem"]
        let configured = keys.files.map { self[$0] }
        var paths = configured
        if configured.allSatisfy({ $0 == nil }), let credentials {
            paths = names.map { access("\(credentials)/\($0)", F_OK) == 0 ? "\(credentials)/\($0)" : nil }
        }
        guard paths.contains(where: { $0 != nil }) else { return nil }
        return try checked(keys.files.map(\.setting)) { () throws(ServiceError) in
            guard let authority = paths[0], let certificate = paths[1], let key = paths[2] else {
                let missing = zip(keys.files, paths).filter { $0.1 == nil }.map(\.0.setting.path)
                throw ServiceError(
                    .invalidConfiguration,
                    "TLS takes an authority, a certificate and its key; set \(missing.joined(separator: " and ")) too, "
                        + "or pass \(names.joined(separator: ", ")) as credentials of the unit.")
            }
            return TLSFiles(authority: authority, certificate: certificate, key: key)
        }
    }

    /// Whether files are those that systemd passed as credentials, which it does not change while a unit runs.
    static func areCredentials(_ files: TLSFiles) -> Bool {
        EnvironmentVariable.value("CREDENTIALS_DIRECTORY").map { files.certificate.hasPrefix($0 + "/") } ?? false
    }

    /// Limits and checks of connections, both those that come and those that are dialled.
    /// - Parameter role: whose certificate it has to be; nil to leave the files unread, where nobody knows who it is.
    func link(_ keys: AccessKeys, role: CertificateRole?) throws -> LinkSettings {
        var link = LinkSettings()
        link.handshakeTimeout = TimeAmount(self[keys.handshakeTimeout])
        link.admission.handshakeByteCountMax = self[keys.handshakeLimit]
        link.admission.unauthenticatedPerPeerMax = self[keys.connectionsPerPeer]
        link.admission.unauthenticatedMax = self[keys.unauthenticatedConnections]
        link.frameTimeout = TimeAmount(self[keys.frameTimeout])
        link.unfinishedFrames = UnfinishedFrames(byteCountMax: self[keys.unfinishedFramesLimit])
        link.admission.connectionsMax = min(link.admission.connectionsMax, Descriptors.connectionsMax)
        link.unixAccess = UnixAccess(
            users: self[keys.users], groups: self[keys.groups], rights: self[keys.rights])
        if let files = try tlsFiles(keys), let role {
            link.tls = try checked(keys.files.map(\.setting)) { () throws(ServiceError) in
                try TLSCredentials(files, for: role)
            }
        }
        return link
    }

    /// An endpoint to listen at: over TCP with certificates, or plain within this machine when that was asked for by name.
    func listenEndpoint(_ key: ConfigurationKey<Endpoint>, _ keys: AccessKeys) throws -> Endpoint {
        let hasTLS = try tlsFiles(keys) != nil
        return try checked([key.setting, keys.insecureLoopbackOnly.setting]) { () throws(ServiceError) in
            let endpoint = self[key]
            guard !hasTLS, !isInspected else { return endpoint }
            try endpoint.checkPlainAllowed(insecureLoopbackOnly: self[keys.insecureLoopbackOnly])
            return endpoint
        }
    }

    /// An endpoint to dial.
    func dialledEndpoint(_ key: ConfigurationKey<Endpoint>, _ keys: AccessKeys) throws -> Endpoint {
        let hasTLS = try tlsFiles(keys) != nil
        return try checked([key.setting]) { () throws(ServiceError) in
            let endpoint = self[key]
            if !hasTLS, !isInspected { try endpoint.checkPlainDialAllowed() }
            return endpoint
        }
    }
}

/// What a configuration that is looked at and not run leaves open.
extension Configuration {
    /// What the certificates that only the unit is passed would have to be there for; nil when nothing takes any.
    func missingCredentials(
        listening: ConfigurationKey<Endpoint>, dialled: ConfigurationKey<Endpoint>?, _ keys: AccessKeys
    ) throws -> String? {
        guard try tlsFiles(keys) == nil else { return nil }
        func needs(_ key: ConfigurationKey<Endpoint>, _ check: (Endpoint) throws(ServiceError) -> Void) -> String? {
            do throws(ServiceError) { try check(self[key]) } catch { return "\(key.setting.path): \(self[key])" }
            return nil
        }
        let insecure = self[keys.insecureLoopbackOnly]
        let found = [
            needs(listening) { endpoint throws(ServiceError) in
                try endpoint.checkPlainAllowed(insecureLoopbackOnly: insecure)
            },
            dialled.flatMap { key in
                needs(key) { endpoint throws(ServiceError) in try endpoint.checkPlainDialAllowed() }
            },
        ].compactMap { $0 }
        guard !found.isEmpty else { return nil }
        return
            "The configuration is good where the unit passes ca.pem, certificate.pem and key.pem as credentials, which "
            + found.joined(separator: " and ") + " takes; else set tls-ca, tls-certificate and tls-key."
    }
}

extension LinkSettings {
    /// For the journal: who may connect to an endpoint.
    func callers(at endpoint: String) -> String {
        guard endpoint.hasPrefix("tcp:") else { return unixAccess?.summary ?? "every user of this machine" }
        guard let tls else { return "every user of this machine, over plain TCP" }
        return "holders of a certificate from \(tls.files.authority), over TLS 1.3"
    }
}
