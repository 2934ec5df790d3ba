// SPDX-License-Identifier: Apache-2.0

package import DCPCore
internal import Glibc
internal import NIOCore

/// The users who may connect to a Unix socket: root, the daemon's user, and configured ones.
public struct UnixAccess: Hashable, Sendable {
    public var users: Set<UInt32>
    public var groups: Set<UInt32>
    public var rights: UserRights
    /// The user of this process.
    let own: UInt32

    public init(users: Set<UInt32> = [], groups: Set<UInt32> = [], rights: UserRights = UserRights()) {
        self.init(users: users, groups: groups, rights: rights, own: geteuid())
    }

    package init(users: Set<UInt32>, groups: Set<UInt32>, rights: UserRights = UserRights(), own: UInt32) {
        self.users = users
        self.groups = groups
        self.rights = rights
        self.own = own
    }

    /// Whether other users than root and the daemon's may connect, so that the socket's mode must allow them.
    package var namesOthers: Bool { !users.subtracting([0, own]).isEmpty || !groups.isEmpty }

    func allows(_ peer: PeerCredentials) -> Bool {
        peer.user == 0 || peer.user == own || users.contains(peer.user) || groups.contains(peer.group)
            || !groups.isDisjoint(with: peer.supplementaryGroups)
    }

    /// Root and the daemon's user could change the configuration or the store, so they may do everything.
    package func caller(_ peer: PeerCredentials) -> Caller {
        let isOwn = peer.user == 0 || peer.user == own
        return Caller(identity: "uid:\(peer.user)", right: isOwn ? .administer : rights[peer.user])
    }

    package func refusal(of peer: PeerCredentials) -> Refusal? {
        guard !allows(peer) else { return nil }
        return Refusal(
            .wrongUser,
            ServiceError(
                .accessDenied,
                "uid \(peer.user) (gid \(peer.group)) may not connect here; name it in allowed-uids, or one of its groups in "
                    + "allowed-gids."))
    }

    /// For the journal: `uids 0, 998, 1000 and gids 50`.
    public var summary: String {
        func list(_ ids: Set<UInt32>) -> String { ids.sorted().map(String.init).joined(separator: ", ") }
        let named = "uids \(list(users.union([0, own])))"
        return groups.isEmpty ? named : named + " and gids \(list(groups))"
    }
}

/// The peer of a Unix socket, from the kernel, as of the time when it connected.
package struct PeerCredentials: Sendable {
    package var user: UInt32
    package var group: UInt32
    package var supplementaryGroups: Set<UInt32>

    package init(user: UInt32, group: UInt32, supplementaryGroups: Set<UInt32>) {
        self.user = user
        self.group = group
        self.supplementaryGroups = supplementaryGroups
    }

    /// `struct ucred` of unix(7), which Swift's Glibc does not have.
    private struct Credentials {
        var process: Int32 = 0
        var user: UInt32 = .max
        var group: UInt32 = .max
    }

    /// Room for the groups of one peer; with more groups, only the first counts.
    private typealias Groups = [256 of UInt32]

    /// On the channel's event loop.
    static func read(from channel: any Channel) -> EventLoopFuture<PeerCredentials> {
        guard let socket = channel as? any SocketOptionProvider else {
            return channel.eventLoop.makeFailedFuture(ChannelError.operationUnsupported)
        }
        let level = NIOBSDSocket.OptionLevel(rawValue: SOL_SOCKET)
        let credentials: EventLoopFuture<Credentials> = socket.unsafeGetSocketOption(
            level: level, name: NIOBSDSocket.Option(rawValue: SO_PEERCRED))
        return credentials.flatMap { credentials in
            let groups: EventLoopFuture<Groups> = socket.unsafeGetSocketOption(
                level: level, name: NIOBSDSocket.Option(rawValue: SO_PEERGROUPS))
            return groups.map { distinct($0) }.recover { _ in [] }.map { groups in
                PeerCredentials(user: credentials.user, group: credentials.group, supplementaryGroups: groups)
            }
        }
    }

    /// The kernel's list is sorted, and unused entries are zero. Root's group cannot be distinguished from an unused
    /// entry, so it does not count.
    private static func distinct(_ groups: Groups) -> Set<UInt32> {
        var found: Set<UInt32> = []
        for index in groups.indices where groups[index] != 0 { found.insert(groups[index]) }
        return found
    }
}
