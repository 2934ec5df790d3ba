package import DCPCore

/// Who is connected, as far as it bounds who may connect. A value without sockets.
///
/// A peer that is refused here takes no place. `waiting(peer) <= waiting <= connections`.
package struct Admission {
    /// Whom connections are counted by before they have a name.
    package enum Peer: Hashable, CustomStringConvertible {
        case address(String)
        case user(UInt32)
        /// A network that does not tell, which is none of sockets: only `connectionsMax` bounds it.
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

    /// Takes a connection in, or says why not.
    package mutating func enter(_ peer: Peer) -> Refusal? {
        if connections >= limits.connectionsMax {
            return Refusal(
                .tooMany,
                ServiceError(
                    .overloaded,
                    "\(limits.connectionsMax) connections are open, which is the limit; try "
                        + "again later."))
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
                    "\(limits.unauthenticatedMax) connections have not sent a hello yet, which is the limit; try "
                        + "again later, or raise "
                        + "unauthenticated-connections."))
        }
        connections += 1
        waiting += 1
        waitingOfPeer[peer, default: 0] += 1
        return nil
    }

    /// The hello of a connection that has entered was accepted.
    package mutating func authenticated(_ peer: Peer) { release(peer) }

    /// A connection that has entered is closed.
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

/// Why a connection is turned away, and what its peer is told where it can be.
package struct Refusal {
    package var cause: RefusalCause
    package var error: ServiceError
    /// Whether the peer gets a frame that says so: not where it expects TLS.
    var isTold = true

    init(_ cause: RefusalCause, _ error: ServiceError) {
        self.cause = cause
        self.error = error
    }
}
