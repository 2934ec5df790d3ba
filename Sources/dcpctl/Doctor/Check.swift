// SPDX-License-Identifier: Apache-2.0

/// One thing that was looked at, and how it was found.
public struct Check: Hashable, Sendable, Encodable {
    public enum Status: String, Sendable, Encodable, CaseIterable {
        case ok
        /// It works, but not as well as it could, or not for long.
        case warning
        /// It does not work, or what it holds is in danger.
        case failed
    }

    /// The subject of the check: `disk`, `clock`.
    public var name: String
    /// Whose: `this host`, `rank 2`, `ca.pem`.
    public var subject: String
    public var status: Status
    public var value: String
    /// The expected value.
    public var limit: String
    /// The remedy; empty if the check is ok.
    public var remedy: String

    static func ok(_ name: String, _ subject: String, _ value: String, limit: String) -> Check {
        Check(name: name, subject: subject, status: .ok, value: value, limit: limit, remedy: "")
    }

    static func warning(_ name: String, _ subject: String, _ value: String, limit: String, remedy: String) -> Check {
        Check(name: name, subject: subject, status: .warning, value: value, limit: limit, remedy: remedy)
    }

    static func failed(_ name: String, _ subject: String, _ value: String, limit: String, remedy: String) -> Check {
        Check(name: name, subject: subject, status: .failed, value: value, limit: limit, remedy: remedy)
    }
}
