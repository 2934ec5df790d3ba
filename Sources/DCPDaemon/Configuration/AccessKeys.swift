package import DCPTransport

/// Who may talk to a daemon: the same keys in the sections of both.
package struct AccessKeys: SettingTable {
    package let authority: ConfigurationKey<String?>
    package let certificate: ConfigurationKey<String?>
    package let key: ConfigurationKey<String?>
    package let insecureLoopbackOnly: ConfigurationKey<Bool>
    package let users: ConfigurationKey<Set<UInt32>>
    package let groups: ConfigurationKey<Set<UInt32>>
    package let rights: ConfigurationKey<UserRights>
    package let handshakeTimeout: ConfigurationKey<Duration>
    package let handshakeLimit: ConfigurationKey<Int>
    package let connectionsPerPeer: ConfigurationKey<Int>
    package let unauthenticatedConnections: ConfigurationKey<Int>
    package let frameTimeout: ConfigurationKey<Duration>
    package let unfinishedFramesLimit: ConfigurationKey<Int>

    /// Those that say where TLS has its files.
    package var files: [ConfigurationKey<String?>] { [authority, certificate, key] }

    init(_ section: Setting.Section) {
        let role = section == .rank ? "dcp:rank:N" : "dcp:coordinator"
        authority = ConfigurationKey(
            section, "tls-ca", .path, isReloadable: true,
            "For TCP: a PEM file with the authorities whose certificates are believed.",
            "Without the three tls-keys, `ca.pem`, `certificate.pem` and `key.pem` of the unit's credentials are taken, when "
                + "they are there. A reload reads all three files again, for connections that are made from then on.")
        certificate = ConfigurationKey(
            section, "tls-certificate", .path, isReloadable: true,
            "For TCP: this daemon's certificate, with the role \(role).",
            "`dcpctl certs` makes it. With it all TCP is TLS 1.3, and every peer has to show a certificate of its own.")
        self.key = ConfigurationKey(
            section, "tls-key", .path, isReloadable: true, "For TCP: the certificate's key.",
            "Refused when everybody may read it.")
        insecureLoopbackOnly = ConfigurationKey(
            section, "insecure-loopback-only", .boolean, default: "false",
            "Allow plain TCP, on loopback addresses only.",
            "Any local user can then reach the daemon. Without effect beside the tls-keys.")
        users = ConfigurationKey(
            section, "allowed-uids", .ids, unset: [],
            "Unix sockets: users that may connect beside root and the daemon's own, by number.",
            "For example 1000,1001. When there are any the socket's mode is 0666, and the kernel's word on the peer decides. Under "
                + "systemd they also have to pass through /run/dcp: the drop-in local-users.conf opens it."
        )
        groups = ConfigurationKey(
            section, "allowed-gids", .ids, unset: [], "Unix sockets: groups whose members may connect, by number.",
            "Supplementary groups count, as they were when the peer's process began.")
        rights = ConfigurationKey(
            section, "rights", .rights, unset: UserRights(),
            "Unix sockets: what users may do who may connect: read, use or administer.",
            "For example `1000=use,*=read`: user 1000 uses sequences of its own, all others read. Root and the daemon's own user "
                + "administer, and so does everybody who is not named. The same for every daemon; the article Security tells what "
                + "takes which right.")
        handshakeTimeout = ConfigurationKey(
            section, "handshake-timeout", .seconds(0.1...600), default: "5",
            "How long a peer may take from the connection to its hello, TLS included, in seconds.")
        handshakeLimit = ConfigurationKey(
            section, "handshake-limit", .size(minimum: 8 << 10), default: "64KiB",
            "The most that a peer may send before its hello is accepted, TLS included.")
        connectionsPerPeer = ConfigurationKey(
            section, "connections-per-peer", .integer(1...1024, unit: "connections"), default: "64",
            "Connections of one peer that may wait for their hello at once.",
            "A peer is an address, or a user on a Unix socket. Those that have said hello do not count.")
        unauthenticatedConnections = ConfigurationKey(
            section, "unauthenticated-connections", .integer(1...1024, unit: "connections"), default: "256",
            "Connections of all peers that may wait for their hello at once.",
            "Of 1024 connections in all, or fewer where the system allows fewer descriptors.")
        frameTimeout = ConfigurationKey(
            section, "frame-timeout", .seconds(0.1...3600), default: "60",
            "How long a frame may take from its first byte to its last, in seconds.",
            "A connection whose frame does not end is closed.")
        unfinishedFramesLimit = ConfigurationKey(
            section, "unfinished-frames-limit", .size(minimum: 512 << 20), default: "1GiB",
            "Bytes of frames that have begun and not ended, of all connections.",
            "Beyond it the connection whose frame began first is refused, retryably.")
    }
}
