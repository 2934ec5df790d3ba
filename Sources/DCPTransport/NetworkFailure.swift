// SPDX-License-Identifier: Apache-2.0

package import DCPCore
internal import Glibc
internal import NIOCore
internal import NIOPosix

/// The reason for a socket failure, in the system's words.
package enum NetworkFailure {
    /// The error number, if the system refused.
    package static func number(of error: any Error) -> CInt? {
        if let failure = error as? NIOConnectionError, let first = failure.connectionErrors.first {
            return number(of: first.error)
        }
        return (error as? IOError)?.errnoCode
    }

    /// Of a daemon that cannot listen: whether it may later without a change. At boot an address or a name server may not
    /// be there yet; another process may be about to end.
    package static func code(ofListening error: any Error) -> ServiceError.Code {
        if error is SocketAddressError { return .unreachable }
        return switch number(of: error) {
        case EADDRNOTAVAIL, EADDRINUSE, ENETDOWN, EMFILE, ENFILE, ENOBUFS, ENOMEM: .unreachable
        default: .invalidConfiguration
        }
    }

    /// `Connection refused`, and not the name of NIO's function.
    package static func reason(of error: any Error) -> String {
        if let number = number(of: error) { return String(cString: strerror(number)) }
        if let failure = error as? NIOConnectionError, let first = failure.connectionErrors.first {
            return reason(of: first.error)
        }
        return "\(error)"
    }
}
