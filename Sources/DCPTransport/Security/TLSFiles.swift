// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import Glibc

/// The PEM files of a certificate, its key and the trusted authorities.
public struct TLSFiles: Hashable, Sendable {
    public var authority: String
    public var certificate: String
    public var key: String

    public init(authority: String, certificate: String, key: String) {
        self.authority = authority
        self.certificate = certificate
        self.key = key
    }

    /// More than any chain needs.
    static let byteCountMax = 1 << 20

    /// A file's bytes.
    /// - Parameter isSecret: refuses a file that any user may read.
    static func read(_ path: String, isSecret: Bool = false) throws(ServiceError) -> [UInt8] {
        let file: WholeFile
        do throws(WholeFile.Refusal) { file = try WholeFile(path, byteCountMax: byteCountMax) } catch {
            throw error.error(.invalidConfiguration, "give a PEM file that uid \(geteuid()) may read")
        }
        guard !isSecret || file.mode & 0o007 == 0 else {
            throw ServiceError(
                .invalidConfiguration,
                "Any user may read the key \(path); chmod 600 it, and replace it if another user may have read it.")
        }
        return file.bytes
    }
}
