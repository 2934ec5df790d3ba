// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import NIOCore

/// The file of a Unix socket, which outlives a killed listener.
package enum SocketFile {
    /// Whether a process listens there, whose path must not be taken over. A file that nobody listens at is stale.
    ///
    /// Two processes that ask at the same time can both be told no: then the later one's socket has the path.
    package static func isInUse(at path: String) -> Bool {
        guard let address = try? SocketAddress(unixDomainSocketPath: path) else { return false }
        // Does not wait: a listener whose queue is full is one that lives.
        let kind = CInt(SOCK_STREAM.rawValue) | CInt(SOCK_CLOEXEC.rawValue) | CInt(SOCK_NONBLOCK.rawValue)
        let descriptor = socket(AF_UNIX, kind, 0)
        guard descriptor >= 0 else { return false }
        defer { close(descriptor) }
        return address.withSockAddr { address, size in
            connect(descriptor, address, socklen_t(size)) == 0 || errno == EAGAIN
        }
    }
}
