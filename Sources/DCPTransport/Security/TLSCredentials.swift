// SPDX-License-Identifier: Apache-2.0

public import DCPCore
internal import NIOCore
internal import NIOSSL
internal import Synchronization

/// A certificate, its key and the trusted authorities for new TCP connections.
///
/// Safe to use from any thread. TLS 1.3 with certificates on both sides is required. `reload` reads new files; open
/// connections keep their credentials.
public final class TLSCredentials: Sendable {
    private struct Loaded {
        let files: TLSFiles
        let bytes: [[UInt8]]
        let identity: TLSIdentity
        let acceptor: NIOSSLContext
        let dialer: NIOSSLContext
    }

    /// The role that the certificate must have.
    private let role: CertificateRole?
    private let loaded: Mutex<Loaded>

    /// - Parameter role: the holder's role; nil for a client of any name.
    /// - Throws: `.invalidConfiguration` with the file, the problem and the remedy.
    public init(_ files: TLSFiles, for role: CertificateRole?) throws(ServiceError) {
        self.role = role
        loaded = Mutex(try Self.load(files, for: role))
    }

    /// Reads the files again. If they are refused, the current ones stay.
    /// - Returns: whether anything changed.
    public func reload(_ files: TLSFiles) throws(ServiceError) -> Bool {
        let new = try Self.load(files, for: role)
        return loaded.withLock { old in
            defer { old = new }
            return old.bytes != new.bytes
        }
    }

    /// For the journal: `dcp:rank:3`.
    public var roleList: String { loaded.withLock(\.identity).roleList }
    /// Seconds since 1970.
    public var notAfter: Int { loaded.withLock(\.identity).notAfter }
    public var files: TLSFiles { loaded.withLock(\.files) }

    func makeAcceptor() -> NIOSSLServerHandler { NIOSSLServerHandler(context: loaded.withLock(\.acceptor)) }

    func makeDialer() throws -> NIOSSLClientHandler {
        // No name: see TLSIdentity.
        try NIOSSLClientHandler(context: loaded.withLock(\.dialer), serverHostname: nil)
    }

    private static func load(_ files: TLSFiles, for role: CertificateRole?) throws(ServiceError) -> Loaded {
        let authorityBytes = try TLSFiles.read(files.authority)
        let certificateBytes = try TLSFiles.read(files.certificate)
        let keyBytes = try TLSFiles.read(files.key, isSecret: true)
        let authorities = try parsed(files.authority) { try NIOSSLCertificate.fromPEMBytes(authorityBytes) }
        let chain = try parsed(files.certificate) { try NIOSSLCertificate.fromPEMBytes(certificateBytes) }
        let key = try parsed(files.key) { try NIOSSLPrivateKey(bytes: keyBytes, format: .pem) }
        guard let leaf = chain.first, !authorities.isEmpty else {
            throw ServiceError(.invalidConfiguration, "\(files.certificate) holds no certificate; name a PEM file.")
        }
        let identity = TLSIdentity(leaf)
        try check(identity, for: role, at: files.certificate)
        let sources = chain.map { NIOSSLCertificateSource.certificate($0) }
        var acceptor = TLSConfiguration.makeServerConfigurationWithMTLS(
            certificateChain: sources, privateKey: .privateKey(key), trustRoots: .certificates(authorities))
        var dialer = TLSConfiguration.makeClientConfiguration()
        dialer.certificateChain = sources
        dialer.privateKey = .privateKey(key)
        dialer.trustRoots = .certificates(authorities)
        // Not by the name that was dialled: see TLSIdentity.
        dialer.certificateVerification = .noHostnameVerification
        harden(&acceptor)
        harden(&dialer)
        do {
            return Loaded(
                files: files, bytes: [authorityBytes, certificateBytes, keyBytes], identity: identity,
                acceptor: try NIOSSLContext(configuration: acceptor),
                dialer: try NIOSSLContext(configuration: dialer))
        } catch {
            throw ServiceError(
                .invalidConfiguration,
                "\(files.certificate) and \(files.key) do not match (\(error)); name a certificate and its key.")
        }
    }

    private static func harden(_ configuration: inout TLSConfiguration) {
        configuration.minimumTLSVersion = .tlsv13
        // A refused peer need not close TLS properly.
        configuration.shutdownTimeout = .seconds(1)
    }

    /// Certificates that peers would refuse are refused here, where the operator sees the error.
    private static func check(
        _ identity: TLSIdentity, for role: CertificateRole?, at path: String
    ) throws(ServiceError) {
        let hasRole: Bool
        if let role {
            hasRole = identity.roles.contains(role)
        } else {
            hasRole = identity.roles.contains { if case .client = $0 { true } else { false } }
        }
        guard hasRole else {
            throw ServiceError(
                .invalidConfiguration,
                "The certificate \(path) is for \(identity.roleList), not for \(role?.uri ?? "dcp:client:NAME"); name the right "
                    + "one (dcpctl certs show).")
        }
        guard identity.isValid(at: TLSIdentity.now) else {
            let isOver = identity.notAfter < TLSIdentity.now
            throw ServiceError(
                .invalidConfiguration,
                "The certificate \(path) \(isOver ? "has expired" : "is not valid yet"); "
                    + (isOver ? "renew it (dcpctl certs renew)." : "set the clock, or wait."))
        }
    }

    private static func parsed<Value>(_ path: String, _ body: () throws -> Value) throws(ServiceError) -> Value {
        do {
            return try body()
        } catch {
            throw ServiceError(
                .invalidConfiguration,
                "\(path) is not the expected PEM file (\(error)); see dcpctl certs show.")
        }
    }
}
