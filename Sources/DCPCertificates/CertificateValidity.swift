public import Foundation

/// From when to when a certificate is valid.
public struct CertificateValidity: Hashable, Sendable {
    public var notBefore: Date
    public var notAfter: Date

    /// How far before the moment of its making a certificate begins: hosts whose clocks are behind by less take it at once.
    public static let clockSkew: TimeInterval = 3600

    /// A leaf is renewed every year, so that renewing is a habit; the authority outlives ten of them.
    public static let leafDays = 365
    public static let authorityDays = 3650

    public init(notBefore: Date, notAfter: Date) {
        self.notBefore = notBefore
        self.notAfter = notAfter
    }

    /// Valid for some days from a moment on, and a little before it.
    public static func days(_ count: Int, from now: Date = Date()) -> CertificateValidity {
        CertificateValidity(
            notBefore: now.addingTimeInterval(-clockSkew), notAfter: now.addingTimeInterval(Double(count) * 86400))
    }

    public static var leaf: CertificateValidity { .days(leafDays) }
    public static var authority: CertificateValidity { .days(authorityDays) }
}
