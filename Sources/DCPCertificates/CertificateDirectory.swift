// SPDX-License-Identifier: Apache-2.0

public import DCPCore
internal import Foundation
internal import Glibc
internal import SystemPackage

/// The certificates and keys of one cluster, as `dcpctl certs` keeps them.
///
/// ```
/// ca.pem           ca-key.pem
/// coordinator.pem  coordinator-key.pem
/// rank-0.pem       rank-0-key.pem
/// client-alice.pem client-alice-key.pem
/// ```
///
/// Keys have the mode 0600, certificates 0644. What is made here is whole or not there: it is written under another name
/// first, synced, and renamed.
public struct CertificateDirectory: Sendable {
    public let path: String

    static let authorityName = "ca"

    public init(path: String) {
        var path = path
        while path.count > 1, path.hasSuffix("/") { path.removeLast() }
        self.path = path
    }

    /// Makes the directory, an authority, and a certificate for each daemon and client.
    /// - Parameters:
    ///   - ranks: 1 to `ClusterShape.ranksMax`, or the process traps.
    ///   - right: what the clients may do.
    ///   - days: how long they are valid; the authority is for ten years.
    /// - Throws: `.conflict` when there is something at the path; `.invalidRequest` for a name that is none, or when it cannot
    ///   be written. Then nothing is left behind.
    public func create(
        ranks: Int, clients: [String], right: ClientRight = .administer, days: Int = CertificateValidity.leafDays,
        now: Int64 = CertificateValidity.now
    ) throws(ServiceError) -> [CertificateFile] {
        precondition((1...ClusterShape.ranksMax).contains(ranks))
        let roles =
            [.coordinator] + (0..<ranks).map { .rank(RankIndex(UInt16($0))) }
            + (try Self.clientRoles(clients, right))
        guard !FileAccess.exists(path) else {
            throw ServiceError(
                .conflict,
                "\(path) already exists, and nothing is overwritten. Give a directory that does not exist, or use "
                    + "`dcpctl certs renew` or `dcpctl certs add` for one with certificates.")
        }
        let authority = try CertificateAuthority.make(
            validity: .days(max(days, CertificateValidity.authorityDays), from: now))
        var pairs = [(Self.authorityName, authority.issuer)]
        for role in roles {
            pairs.append((role.fileName, try authority.issue([role], validity: .days(days, from: now))))
        }
        let parent = FilePath(path).directory.string
        var template = Array("\(parent)/.dcp-certificates-XXXXXX".utf8CString)
        guard mkdtemp(&template) != nil else { throw FileAccess.failure("made", path, errno) }
        let temporary = CertificateDirectory(
            path: String(decoding: template.dropLast().map(UInt8.init(bitPattern:)), as: UTF8.self))
        do throws(ServiceError) {
            for (name, pair) in pairs { try pair.write(to: temporary.certificate(name), key: temporary.key(name)) }
            // Others may read certificates here; the keys have modes of their own.
            guard chmod(temporary.path, 0o755) == 0 else { throw FileAccess.failure("made", path, errno) }
            try FileAccess.syncDirectory(temporary.path)
            // Only an empty directory that came meanwhile would be replaced.
            try FileAccess.move(temporary.path, to: path, replacing: true)
        } catch {
            // Files that cannot be removed are unreferenced; the first error is the one to report.
            try? FileManager.default.removeItem(atPath: temporary.path)
            throw error
        }
        try FileAccess.syncDirectory(parent)
        return try files()
    }

    /// Makes certificates for more ranks and clients, by the authority that is here.
    /// - Throws: `.conflict` when one of them has a certificate; `.invalidRequest` as `create` does. Then none is made.
    public func add(
        ranks: [RankIndex], clients: [String], right: ClientRight = .administer,
        days: Int = CertificateValidity.leafDays,
        now: Int64 = CertificateValidity.now
    ) throws(ServiceError) -> [CertificateFile] {
        let roles = ranks.map { .rank($0) } + (try Self.clientRoles(clients, right))
        for role in roles {
            for file in [certificate(role.fileName), key(role.fileName)] where FileAccess.exists(file) {
                throw FileAccess.failure("made", file, EEXIST)
            }
        }
        let authority = try authority()
        var pairs: [(String, KeyedCertificate)] = []
        for role in roles {
            pairs.append((role.fileName, try authority.issue([role], validity: .days(days, from: now))))
        }
        // The key first, so that an existing certificate can be used.
        var texts: [(path: String, text: String, mode: mode_t)] = []
        for (name, pair) in pairs {
            texts.append((key(name), try pair.keyPEM, FileAccess.keyMode))
            texts.append((certificate(name), try pair.certificatePEM, FileAccess.certificateMode))
        }
        try write(texts, replacing: false)
        return try pairs.map { pair throws(ServiceError) in try CertificateFile(path: certificate(pair.0)) }
    }

    /// Makes all certificates but the authority's anew, for the same keys, roles and names.
    ///
    /// The keys stay, so that certificate and key match at every moment, for a daemon that reads them just now too. New keys
    /// come with a new directory.
    /// - Throws: `.invalidRequest` when one cannot be read or written. Those that were not replaced yet are as before.
    public func renew(
        days: Int = CertificateValidity.leafDays, now: Int64 = CertificateValidity.now
    ) throws(ServiceError) -> [CertificateFile] {
        let authority = try authority()
        var texts: [(path: String, text: String, mode: mode_t)] = []
        for name in try names() where name != Self.authorityName {
            let old = try pair(name)
            guard authority.hasIssued(old) else {
                throw ServiceError(
                    .invalidRequest,
                    "\(certificate(name)) is not signed by the authority in \(certificate(Self.authorityName)), "
                        + "which cannot renew it. Move it to another directory; nothing was changed.")
            }
            let new = try authority.renew(old, validity: .days(days, from: now))
            texts.append((certificate(name), try new.certificatePEM, FileAccess.certificateMode))
        }
        try write(texts, replacing: true)
        return try files()
    }

    /// The contents of the directory: the authority first, then by name.
    /// - Throws: `.invalidRequest` that names the file, for one that cannot be read or is no certificate, and when there is none.
    public func files() throws(ServiceError) -> [CertificateFile] {
        let names = try names()
        guard !names.isEmpty else {
            throw ServiceError(
                .invalidRequest, "There are no certificates in \(path); make some with `dcpctl certs init`.")
        }
        return try names.map { name throws(ServiceError) in try CertificateFile(path: certificate(name)) }
    }

    /// - Throws: `.invalidRequest` that names the file, when the authority or its key is not here.
    public func authority() throws(ServiceError) -> CertificateAuthority {
        guard FileAccess.exists(key(Self.authorityName)) else {
            throw ServiceError(
                .invalidRequest,
                "The authority's key \(key(Self.authorityName)) is missing, and new certificates need it; give the "
                    + "directory that `dcpctl certs init` made.")
        }
        let pair = try pair(Self.authorityName)
        do {
            return try CertificateAuthority(pair)
        } catch {
            throw ServiceError(error.code, "\(certificate(Self.authorityName)): \(error.message)")
        }
    }

    /// - Parameter name: as in `rank-0`.
    public func certificate(_ name: String) -> String { "\(path)/\(name).pem" }
    public func key(_ name: String) -> String { "\(path)/\(name)-key.pem" }

    private func names() throws(ServiceError) -> [String] {
        let names = try FileAccess.list(path).filter { $0.hasSuffix(".pem") && !$0.hasSuffix("-key.pem") }
            .map { String($0.dropLast(4)) }
        // `ca` is what the others are believed by; rank-10 comes after rank-9.
        return names.sorted {
            if ($0 == Self.authorityName) != ($1 == Self.authorityName) { return $0 == Self.authorityName }
            return $0.compare($1, options: .numeric) == .orderedAscending
        }
    }

    private func pair(_ name: String) throws(ServiceError) -> KeyedCertificate {
        let texts = (try FileAccess.read(certificate(name)), try FileAccess.read(key(name)))
        do {
            return try KeyedCertificate(certificatePEM: texts.0, keyPEM: texts.1)
        } catch {
            throw ServiceError(error.code, "\(certificate(name)) and \(key(name)): \(error.message)")
        }
    }

    /// All are on the disk under other names before the first gets its own.
    private func write(
        _ texts: [(path: String, text: String, mode: mode_t)], replacing: Bool
    ) throws(ServiceError) {
        let mark = ".new-\(getpid())"
        func temporary(_ path: String) -> String {
            let path = FilePath(path)
            return "\(path.directory)/.\(path.lastComponent?.string ?? "")\(mark)"
        }
        do throws(ServiceError) {
            for file in texts { try FileAccess.create(temporary(file.path), file.text, mode: file.mode) }
            for file in texts {
                try FileAccess.move(temporary(file.path), to: file.path, replacing: replacing)
            }
        } catch {
            for file in texts { unlink(temporary(file.path)) }
            throw error
        }
        try FileAccess.syncDirectory(path)
    }

    private static func clientRoles(_ names: [String], _ right: ClientRight) throws(ServiceError) -> [CertificateRole] {
        for name in names where !CertificateRole.isClientName(name) {
            throw ServiceError(
                .invalidRequest,
                "`\(name)` is not a valid client name; use up to 64 letters, digits, `.`, `_` and `-`, beginning with "
                    + "a letter or a digit and not ending with `-key`.")
        }
        guard Set(names).count == names.count else {
            throw ServiceError(.invalidRequest, "A client is named twice; name each once.")
        }
        return names.map { .client($0, right) }
    }
}

extension KeyedCertificate {
    /// Writes both files, which must not exist.
    /// - Throws: `.conflict` when one exists, `.invalidRequest` when it cannot be written.
    public func write(to certificateFile: String, key keyFile: String) throws(ServiceError) {
        try FileAccess.create(keyFile, keyPEM, mode: FileAccess.keyMode)
        try FileAccess.create(certificateFile, certificatePEM, mode: FileAccess.certificateMode)
    }
}

extension CertificateRole {
    /// As in `rank-0`, without `.pem`.
    public var fileName: String {
        switch self {
        case .coordinator: "coordinator"
        case .rank(let rank): "rank-\(rank.value)"
        case .client(let name, _): "client-\(name)"
        }
    }
}
