// SPDX-License-Identifier: Apache-2.0

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
            "For TCP: a PEM file with the trusted certificate authorities.",
            "Without the three tls-keys, the unit's credentials `ca.pem`, `certificate.pem` and `key.pem` are used if they "
                + "exist. A reload reads all three files again for new connections.")
        certificate = ConfigurationKey(
            section, "tls-certificate", .path, isReloadable: true,
            "For TCP: this daemon's certificate, with the role \(role).",
            "`dcpctl certs` creates it. With it all TCP connections use TLS 1.3, and every peer must present a certificate."
        )
        self.key = ConfigurationKey(
            section, "tls-key", .path, isReloadable: true, "For TCP: the certificate's key.",
            "A key that others can read is refused.")
        insecureLoopbackOnly = ConfigurationKey(
            section, "insecure-loopback-only", .boolean, default: "false",
            "Allow plain TCP, on loopback addresses only.",
            "Any local user can then reach the daemon. It has no effect with the tls-keys.")
        users = ConfigurationKey(
            section, "allowed-uids", .ids, unset: [],
            "Unix sockets: the numbers of users that may connect, besides root and the daemon's own user.",
            "For example 1000,1001. With any of them the socket has the mode 0666, and the daemon checks the peer's user with "
                + "the kernel. Under systemd they also need access to /run/dcp: the drop-in local-users.conf grants it."
        )
        groups = ConfigurationKey(
            section, "allowed-gids", .ids, unset: [], "Unix sockets: the numbers of groups whose members may connect.",
            "Supplementary groups count, as of the start of the peer's process.")
        rights = ConfigurationKey(
            section, "rights", .rights, unset: UserRights(),
            "Unix sockets: the rights of users that may connect: read, use or administer.",
            "For example `1000=use,*=read`: user 1000 may use its own sequences, all others may read. Root, the daemon's own "
                + "user and users that match no entry may administer. Use the same value for every daemon. The article Security "
                + "lists the operations that each right allows.")
        handshakeTimeout = ConfigurationKey(
            section, "handshake-timeout", .seconds(0.1...600), default: "5",
            "The time that a peer may take from the connection to its hello, TLS included, in seconds.")
        handshakeLimit = ConfigurationKey(
            section, "handshake-limit", .size(minimum: 8 << 10), default: "64KiB",
            "The number of bytes that a peer may send before its hello is accepted, TLS included.")
        connectionsPerPeer = ConfigurationKey(
            section, "connections-per-peer", .integer(1...1024, unit: "connections"), default: "64",
            "The number of connections of one peer that may wait for their hello.",
            "A peer is an address, or a user on a Unix socket. Connections after their hello do not count.")
        unauthenticatedConnections = ConfigurationKey(
            section, "unauthenticated-connections", .integer(1...1024, unit: "connections"), default: "256",
            "The number of connections of all peers that may wait for their hello.",
            "A daemon has 1024 connections in all, or fewer if the system allows fewer descriptors.")
        frameTimeout = ConfigurationKey(
            section, "frame-timeout", .seconds(0.1...3600), default: "60",
            "The time that a frame may take from its first byte to its last, in seconds.",
            "A connection whose frame takes longer is closed.")
        unfinishedFramesLimit = ConfigurationKey(
            section, "unfinished-frames-limit", .size(minimum: 512 << 20), default: "1GiB",
            "The number of bytes in unfinished frames of all connections.",
            "Beyond it, the connection with the oldest unfinished frame is closed with a retryable error.")
    }
}
