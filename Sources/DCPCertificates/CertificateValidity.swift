// SPDX-License-Identifier: Apache-2.0

internal import Foundation

/// From when to when a certificate is valid, in seconds since 1970.
///
/// Numbers and not Foundation's dates, so that who uses this need not import Foundation.
public struct CertificateValidity: Hashable, Sendable {
    public var notBefore: Int64
    public var notAfter: Int64

    /// How many seconds before it is made a certificate begins: hosts whose clocks are behind by less take it at once.
    public static let clockSkew: Int64 = 3600

    /// A leaf is renewed every year, so that renewing is a habit; the authority outlives ten of them.
    public static let leafDays = 365
    public static let authorityDays = 3650

    public init(notBefore: Int64, notAfter: Int64) {
        self.notBefore = notBefore
        self.notAfter = notAfter
    }

    /// Valid for some days from a moment on, and a little before it.
    public static func days(_ count: Int, from now: Int64 = now) -> CertificateValidity {
        CertificateValidity(notBefore: now - clockSkew, notAfter: now + Int64(count) * 86400)
    }

    public static var leaf: CertificateValidity { .days(leafDays) }
    public static var authority: CertificateValidity { .days(authorityDays) }

    public static var now: Int64 { Int64(Date().timeIntervalSince1970) }

    /// `2027-11-25T04:41:20Z`.
    public static func text(_ seconds: Int64) -> String { date(seconds).formatted(.iso8601) }

    static func date(_ seconds: Int64) -> Date { Date(timeIntervalSince1970: Double(seconds)) }
}
