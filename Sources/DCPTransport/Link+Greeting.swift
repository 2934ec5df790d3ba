// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPWire
internal import NIOSSL

/// The greeting: the first frame in each direction, before which nothing else is read.
extension Link {
    /// The TLS handshake is done, and BoringSSL holds the peer's certificate for the cluster's.
    func becameSecure() {
        guard isGreeting, case .dialled(_, let role, let hello) = side else { return }
        do throws(ServiceError) {
            try TLSIdentity.shown(to: tls).check(is: role)
            write(.greeting(.hello(hello)))
        } catch {
            close(error)
        }
    }

    /// Takes the peer's first frame.
    /// - Returns: its hello; for the dialling side, its welcome.
    /// - Throws: why the peer is refused, or why it refuses this side.
    func greet(_ frame: Frame) throws(ServiceError) -> Hello {
        switch (side, frame.message) {
        case (.dialled, .welcome(let welcome)):
            return welcome
        case (.dialled, .failure(let refusal)):
            throw refusal
        case (.accepted(let role), .hello(let hello)):
            if tls != nil {
                let identity = try TLSIdentity.shown(to: tls)
                try identity.check(hello, acceptedBy: role)
                caller = identity.caller
            } else if hello.role != .client {
                // A peer with limited rights cannot be a daemon.
                try caller.check(.administer, for: "a hello as \(hello.sender)")
            }
            guard let delegate else { throw ServiceError(.shuttingDown, "The daemon is stopping; try again later.") }
            let welcome = try delegate.link(self, accepts: hello)
            write(.greeting(.welcome(welcome)))
            return hello
        default:
            throw ServiceError(
                .protocolViolation, "A \(frame.message.type) frame came before the hello; the peer has a bug.")
        }
    }

    /// What an error in something the peer sent says about it.
    func cause(of error: ServiceError) -> RefusalCause {
        guard isGreeting else { return error.code == .overloaded ? .tooManyUnfinished : .protocolViolation }
        switch error.code {
        case .accessDenied: return .wrongRole
        case .incompatible: return .incompatible
        default: return inbound.wasOverLimit ? .oversizedHello : .notDCP
        }
    }
}
