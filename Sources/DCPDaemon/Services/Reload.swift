// SPDX-License-Identifier: Apache-2.0

internal import Logging
internal import ServiceLifecycle
internal import Synchronization
internal import UnixSignals

/// The configuration a daemon runs with, and the way to read it again.
final class Reload: Sendable {
    private let source: ConfigurationSource
    private let configuration: Mutex<Configuration>

    init(source: ConfigurationSource, configuration: Configuration) {
        self.source = source
        self.configuration = Mutex(configuration)
    }

    /// The last accepted configuration. Keys that need a restart may differ from the running settings.
    var current: Configuration { configuration.withLock { $0 } }

    enum Outcome {
        /// `ignored`: keys that changed and take a restart.
        case changed([Setting], ignored: [Setting])
        case refused(String)
    }

    func run() -> Outcome {
        do {
            let new = try source.load()
            let changes = configuration.withLock { current in
                defer { current = new }
                return new.changes(since: current)
            }
            return .changed(changes.filter(\.isReloadable), ignored: changes.filter { !$0.isReloadable })
        } catch {
            return .refused("\(error)")
        }
    }
}

/// Reads the configuration again on SIGHUP, which is what `systemctl reload` sends.
struct ReloadService: Service {
    let reload: Reload
    let log: DaemonLog
    /// Takes over what has changed.
    let apply: @Sendable (Configuration) -> Void

    func run() async throws {
        for await _ in await UnixSignalsSequence(trapping: .sighup).cancelOnGracefulShutdown() {
            ServiceManager.reloading { reloadOnce() }
        }
    }

    private func reloadOnce() {
        switch reload.run() {
        case .changed(let changed, let ignored):
            apply(reload.current)
            var metadata: Logger.Metadata = ["changed": "\(Self.list(changed))"]
            if !ignored.isEmpty { metadata["needs-restart"] = "\(Self.list(ignored))" }
            log.write(
                .configurationReloaded, ignored.isEmpty ? .notice : .warning, "Configuration reloaded", metadata)
        case .refused(let reason):
            log.write(
                .configurationRefused, .error, "Configuration refused, keeping the current one",
                ["reason": "\(reason)"])
        }
    }

    private static func list(_ keys: [Setting]) -> String {
        keys.isEmpty ? "nothing" : keys.map(\.path).joined(separator: ", ")
    }
}
