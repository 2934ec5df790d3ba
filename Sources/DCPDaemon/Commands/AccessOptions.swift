internal import ArgumentParser

/// The flags of who may talk to a daemon. Both daemons have them; their help is the same.
struct AccessOptions: ParsableArguments {
    @Option(help: .setting(ConfigurationKey.rankAccess.authority)) var tlsCa: String?
    @Option(help: ArgumentHelp("For TCP: this daemon's certificate, with its role.", valueName: "path"))
    var tlsCertificate: String?
    @Option(help: .setting(ConfigurationKey.rankAccess.key)) var tlsKey: String?
    @Flag(help: .setting(ConfigurationKey.rankAccess.insecureLoopbackOnly)) var insecureLoopbackOnly = false
    @Option(help: .setting(ConfigurationKey.rankAccess.users)) var allowedUids: String?
    @Option(help: .setting(ConfigurationKey.rankAccess.groups)) var allowedGids: String?
    @Option(help: .setting(ConfigurationKey.rankAccess.rights)) var rights: String?
    @Option(help: .setting(ConfigurationKey.rankAccess.handshakeTimeout)) var handshakeTimeout: String?
    @Option(help: .setting(ConfigurationKey.rankAccess.handshakeLimit)) var handshakeLimit: String?
    @Option(help: .setting(ConfigurationKey.rankAccess.connectionsPerPeer)) var connectionsPerPeer: String?
    @Option(help: .setting(ConfigurationKey.rankAccess.unauthenticatedConnections)) var unauthenticatedConnections:
        String?
    @Option(help: .setting(ConfigurationKey.rankAccess.frameTimeout)) var frameTimeout: String?
    @Option(help: .setting(ConfigurationKey.rankAccess.unfinishedFramesLimit)) var unfinishedFramesLimit: String?

    func flags(_ keys: AccessKeys) throws -> [ConfigurationKey: String] {
        try givenFlags([
            keys.authority: tlsCa, keys.certificate: tlsCertificate, keys.key: tlsKey,
            keys.insecureLoopbackOnly: insecureLoopbackOnly ? "true" : nil, keys.users: allowedUids,
            keys.groups: allowedGids, keys.rights: rights, keys.handshakeTimeout: handshakeTimeout,
            keys.handshakeLimit: handshakeLimit,
            keys.connectionsPerPeer: connectionsPerPeer,
            keys.unauthenticatedConnections: unauthenticatedConnections, keys.frameTimeout: frameTimeout,
            keys.unfinishedFramesLimit: unfinishedFramesLimit,
        ])
    }
}
