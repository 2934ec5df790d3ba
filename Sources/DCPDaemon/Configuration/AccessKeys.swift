/// Who may talk to a daemon: the same keys in the sections of both.
package struct AccessKeys: Sendable {
    package let insecureLoopbackOnly: ConfigurationKey
    package let authority: ConfigurationKey
    package let certificate: ConfigurationKey
    package let key: ConfigurationKey
    package let users: ConfigurationKey
    package let groups: ConfigurationKey
    package let rights: ConfigurationKey
    package let handshakeTimeout: ConfigurationKey
    package let handshakeLimit: ConfigurationKey
    package let connectionsPerPeer: ConfigurationKey
    package let unauthenticatedConnections: ConfigurationKey
    package let frameTimeout: ConfigurationKey
    package let unfinishedFramesLimit: ConfigurationKey

    /// In the order of the reference.
    package var all: [ConfigurationKey] {
        [
            authority, certificate, key, insecureLoopbackOnly, users, groups, rights, handshakeTimeout, handshakeLimit,
            connectionsPerPeer, unauthenticatedConnections, frameTimeout, unfinishedFramesLimit,
        ]
    }

    /// Those that say where TLS has its files.
    package var files: [ConfigurationKey] { [authority, certificate, key] }

    init(_ section: ConfigurationKey.Section) {
        func key(
            _ name: String, _ kind: ValueKind, default value: String? = nil, isReloadable: Bool = false,
            _ summary: String, _ detail: String = ""
        ) -> ConfigurationKey {
            ConfigurationKey(section, name, kind, default: value, isReloadable: isReloadable, summary, detail)
        }
        let role = section == .rank ? "dcp:rank:N" : "dcp:coordinator"
        authority = key(
            "tls-ca", .path, isReloadable: true,
            "For TCP: a PEM file with the authorities whose certificates are believed.",
            "Without the three tls-keys, `ca.pem`, `certificate.pem` and `key.pem` of the unit's credentials are taken, when "
                + "they are there. A reload reads all three files again, for connections that are made from then on.")
        certificate = key(
            "tls-certificate", .path, isReloadable: true, "For TCP: this daemon's certificate, with the role \(role).",
            "`dcpctl certs` makes it. With it all TCP is TLS 1.3, and every peer has to show a certificate of its own.")
        self.key = key(
            "tls-key", .path, isReloadable: true, "For TCP: the certificate's key.",
            "Refused when everybody may read it.")
        insecureLoopbackOnly = key(
            "insecure-loopback-only", .boolean, default: "false",
            "Allow plain TCP, on loopback addresses only.",
            "Any local user can then reach the daemon. Without effect beside the tls-keys.")
        users = key(
            "allowed-uids", .ids,
            "Unix sockets: users that may connect beside root and the daemon's own, by number.",
            "For example 1000,1001. When there are any the socket's mode is 0666, and the kernel's word on the peer decides. Under "
                + "systemd they also have to pass through /run/dcp: the drop-in local-users.conf opens it."
        )
        groups = key(
            "allowed-gids", .ids, "Unix sockets: groups whose members may connect, by number.",
            "Supplementary groups count, as they were when the peer's process began.")
        rights = key(
            "rights", .rights,
            "Unix sockets: what users may do who may connect: read, use or administer.",
            "For example `1000=use,*=read`: user 1000 uses sequences of its own, all others read. Root and the daemon's own user "
                + "administer, and so does everybody who is not named. The same for every daemon; the article Security tells what "
                + "takes which right.")
        handshakeTimeout = key(
            "handshake-timeout", .seconds(0.1...600), default: "5",
            "How long a peer may take from the connection to its hello, TLS included, in seconds.")
        handshakeLimit = key(
            "handshake-limit", .size(minimum: 8 << 10), default: "64KiB",
            "The most that a peer may send before its hello is accepted, TLS included.")
        connectionsPerPeer = key(
            "connections-per-peer", .integer(1...1024, unit: "connections"), default: "64",
            "Connections of one peer that may wait for their hello at once.",
            "A peer is an address, or a user on a Unix socket. Those that have said hello do not count.")
        unauthenticatedConnections = key(
            "unauthenticated-connections", .integer(1...1024, unit: "connections"), default: "256",
            "Connections of all peers that may wait for their hello at once.",
            "Of 1024 connections in all, or fewer where the system allows fewer descriptors.")
        frameTimeout = key(
            "frame-timeout", .seconds(0.1...3600), default: "60",
            "How long a frame may take from its first byte to its last, in seconds.",
            "A connection whose frame does not end is closed.")
        unfinishedFramesLimit = key(
            "unfinished-frames-limit", .size(minimum: 512 << 20), default: "1GiB",
            "Bytes of frames that have begun and not ended, of all connections.",
            "Beyond it the connection whose frame began first is refused, retryably.")
    }
}
