// SPDX-License-Identifier: Apache-2.0

public import DCPCertificates
internal import DCPCore
internal import Foundation
internal import SystemPackage

/// Whether certificates and keys are what daemons and clients will accept, and for how long.
public enum CertificateChecks {
    /// Renewing takes a person a while.
    static let daysMin = 30

    /// - Parameters:
    ///   - files: certificates, with their keys.
    ///   - authorities: what their issuer is looked for in; nil when there is no such file.
    public static func checks(
        _ files: [CertificateFile], authorities: CertificateFile?, now: Int64 = CertificateValidity.now
    ) -> [Check] {
        files.flatMap { file in
            let subject = file.path
            return file.certificates.map { expiry($0, of: subject, now) }
                + (file.certificates[0].isAuthority ? [] : [role(file), issuer(file, authorities)])
                + (file.key.map { [key($0, of: subject)] } ?? [])
        }
    }

    /// A directory of certificates, or one file of it.
    public static func checks(at path: String, now: Int64 = CertificateValidity.now) -> [Check] {
        do throws(ServiceError) {
            let files = try CertificateFile.all(at: path)
            let beside =
                files.first { $0.certificates[0].isAuthority }
                ?? (try? CertificateFile(path: FilePath(path).directory.string + "/ca.pem"))
            return checks(files, authorities: beside, now: now)
        } catch {
            return [
                .failed(
                    "certificate", path, "not read", limit: "a certificate in PEM, with its key",
                    remedy: error.message)
            ]
        }
    }

    private static func expiry(_ certificate: CertificateDescription, of subject: String, _ now: Int64) -> Check {
        let (begin, end) = (certificate.validity.notBefore, certificate.validity.notAfter)
        let limit = "valid now and for \(daysMin) days"
        let days = (end - now) / 86400
        let remedy =
            certificate.isAuthority
            ? "Make a new authority with `dcpctl certs init` and replace all certificates of the cluster."
            : "Run `dcpctl certs renew` where the authority's key is, copy the certificate here and reload the daemon."
        if now < begin {
            return .failed(
                "certificate", subject, "valid from \(CertificateValidity.text(begin)) on", limit: limit,
                remedy: "This host's clock may be behind; set it (timedatectl).")
        }
        if now >= end {
            return .failed(
                "certificate", subject, "expired \(CertificateValidity.text(end))", limit: limit, remedy: remedy)
        }
        let value = "\(days) days, until \(CertificateValidity.text(end))"
        if days < daysMin { return .warning("certificate", subject, value, limit: limit, remedy: remedy) }
        return .ok("certificate", subject, value, limit: limit)
    }

    private static func role(_ file: CertificateFile) -> Check {
        let roles = file.certificates[0].roles
        // The name of a file is a promise only where it is one of ours.
        let stem = FilePath(file.path).stem ?? ""
        let isNamed = stem == "coordinator" || stem.hasPrefix("rank-") || stem.hasPrefix("client-")
        let limit = isNamed ? stem : "a role"
        let value = roles.isEmpty ? "none" : roles.map(\.uri).joined(separator: " ")
        guard !roles.isEmpty, !isNamed || roles.contains(where: { $0.fileName == stem }) else {
            return .failed(
                "role", file.path, value, limit: limit,
                remedy:
                    "Peers will refuse it; use the certificate that `dcpctl certs init` or `add` makes for the role.")
        }
        return .ok("role", file.path, value, limit: limit)
    }

    private static func issuer(_ file: CertificateFile, _ authorities: CertificateFile?) -> Check {
        let name = file.certificates[0].issuer
        guard let authorities else {
            return .warning(
                "issuer", file.path, name, limit: "in ca.pem",
                remedy: "There is no ca.pem beside it to compare with; give the directory that has both.")
        }
        let limit = "in \(authorities.path)"
        do throws(ServiceError) {
            if try file.isIssued(by: authorities) { return .ok("issuer", file.path, name, limit: limit) }
        } catch {
            return .failed("issuer", file.path, name, limit: limit, remedy: error.message)
        }
        return .failed(
            "issuer", file.path, name, limit: limit,
            remedy:
                "It belongs to another cluster, or its authority was replaced; copy ca.pem and the certificate from "
                + "the same directory.")
    }

    private static func key(_ key: CertificateFile.Key, of subject: String) -> Check {
        let value = "\(key.path), mode 0\(String(key.mode, radix: 8))"
        let limit = "0600, matches certificate"
        if key.isOpenToOthers {
            return .failed(
                "key", subject, value, limit: limit,
                remedy:
                    "Other users may read it and impersonate the certificate's role: chmod 600 \(key.path), and "
                    + "replace it if it may have been read.")
        }
        switch key.matches {
        case true: return .ok("key", subject, value, limit: limit)
        case false:
            return .failed(
                "key", subject, value + ", of another certificate", limit: limit,
                remedy: "Copy certificate and key from the same directory.")
        case nil:
            return .warning(
                "key", subject, value + ", not readable", limit: limit,
                remedy: "Run this as the user of the daemon, uid \(key.owner), to compare the two.")
        }
    }
}
