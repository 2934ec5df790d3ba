// SPDX-License-Identifier: Apache-2.0

package import DCPCore

/// Counts connections to limit new ones.
///
/// It is a value without sockets. A refused peer takes no place. `waiting(peer) <= waiting <= connections`.
package struct Admission {
    /// The key by which connections are counted before they are identified.
    package enum Peer: Hashable, CustomStringConvertible {
        case address(String)
        case user(UInt32)
        /// A network that does not identify peers, which no socket does: only `connectionsMax` limits it.
        case unknown

        package var description: String {
            switch self {
            case .address(let address): address
            case .user(let uid): "uid \(uid)"
            case .unknown: "a peer"
            }
        }
    }

    let limits: AdmissionLimits
    package private(set) var connections = 0
    private var waiting = 0
    private var waitingOfPeer: [Peer: Int] = [:]

    package init(limits: AdmissionLimits) { self.limits = limits }

    /// Admits a connection, or returns the reason for refusing it.
    package mutating func enter(_ peer: Peer) -> Refusal? {
        if connections >= limits.connectionsMax {
            return Refusal(
                .tooMany,
                ServiceError(
                    .overloaded,
                    "\(limits.connectionsMax) connections are open, which is the limit; try again later"
                        + (limits.connectionsMax < AdmissionLimits().connectionsMax
                            ? ", or allow the process more open files (LimitNOFILE=)." : ".")))
        }
        if peer != .unknown, waitingOfPeer[peer, default: 0] >= limits.unauthenticatedPerPeerMax {
            return Refusal(
                .tooManyOfPeer,
                ServiceError(
                    .overloaded,
                    "\(limits.unauthenticatedPerPeerMax) connections from \(peer) have not sent a hello yet, which "
                        + "is the limit; try again later, or raise connections-per-peer."))
        }
        if peer != .unknown, waiting >= limits.unauthenticatedMax {
            return Refusal(
                .tooManyUnauthenticated,
                ServiceError(
                    .overloaded,
                    "\(limits.unauthenticatedMax) connections have not sent a hello yet, which is the limit; try again "
                        + "later, or raise unauthenticated-connections."))
        }
        connections += 1
        waiting += 1
        waitingOfPeer[peer, default: 0] += 1
        return nil
    }

    /// The hello of an admitted connection was accepted.
    package mutating func authenticated(_ peer: Peer) { release(peer) }

    /// An admitted connection is closed.
    package mutating func leave(_ peer: Peer, wasAuthenticated: Bool) {
        precondition(connections > 0, "a connection leaves only after it entered")
        connections -= 1
        if !wasAuthenticated { release(peer) }
    }

    private mutating func release(_ peer: Peer) {
        waiting -= 1
        let count = waitingOfPeer[peer, default: 0] - 1
        precondition(waiting >= 0 && count >= 0, "a waiting connection is released only once")
        waitingOfPeer[peer] = count == 0 ? nil : count
    }
}

/// Why a connection is refused, and the error for its peer.
package struct Refusal {
    package var cause: RefusalCause
    package var error: ServiceError
    /// Whether the peer gets a frame with the reason; not if it expects TLS.
    var isTold = true

    init(_ cause: RefusalCause, _ error: ServiceError) {
        self.cause = cause
        self.error = error
    }
}
