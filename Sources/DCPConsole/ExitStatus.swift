// SPDX-License-Identifier: Apache-2.0

public import DCPCore

/// How a command ends: the numbers of sysexits.h that scripts and service managers know.
public enum ExitStatus: Int32, CaseIterable, Sendable {
    case success = 0
    /// EX_USAGE: the command line is wrong.
    case usage = 64
    /// EX_DATAERR: a file, a model, a name or a position is wrong, or a result is not as expected.
    case badData = 65
    /// EX_UNAVAILABLE: no daemon answers, or it speaks another protocol.
    case unavailable = 69
    /// EX_SOFTWARE: a bug of ours.
    case bug = 70
    /// EX_IOERR: a verification found damage in a store, and it is still there.
    case damage = 74
    /// EX_TEMPFAIL: the same command may succeed later.
    case retryLater = 75
    /// EX_NOPERM: a daemon does not take this user's, or this certificate's, connections.
    case accessDenied = 77

    /// For help and manual pages.
    public var meaning: String {
        switch self {
        case .success: "done"
        case .usage: "the command line is wrong"
        case .badData: "a file, name, shape or position is wrong, or a result differs from the expected one"
        case .unavailable: "no daemon answers there, or it speaks another protocol"
        case .bug: "a bug of this program or of the cluster"
        case .damage: "a verification found damage in a store, and it is not repaired"
        case .retryLater: "temporary failure: the same command may succeed later"
        case .accessDenied: "a daemon refuses connections of this user or certificate"
        }
    }

    /// The list of all, as help shows it.
    public static var list: String {
        allCases.map { "  \($0.rawValue)\($0 == .success ? "   " : "  ")\($0.meaning)" }.joined(separator: "\n")
    }

    public init(_ error: ServiceError) {
        switch error.code {
        case .invalidConfiguration: self = .usage
        // A retry does not change the peer or its store, and the user's data is not the cause.
        case .unreachable, .incompatible, .protocolViolation, .storeRefused: self = .unavailable
        case .accessDenied: self = .accessDenied
        case .internal: self = .bug
        case let code where code.isRetryable: self = .retryLater
        // A newer service's code: below 100 the request is at fault, above the retryable ones the program.
        case let code: self = code.rawValue < 100 ? .badData : .bug
        }
    }
}
