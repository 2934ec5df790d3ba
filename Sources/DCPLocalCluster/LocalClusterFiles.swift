// SPDX-License-Identifier: Apache-2.0

public import DCPCore
internal import DCPFiles
internal import Foundation

/// pids.json: the daemons that an `up` started, and on which boot of the machine.
struct RunningDaemons: Codable, Hashable {
    struct Entry: Codable, Hashable {
        /// `coordinator` or `rank-2`.
        var name: String
        var process: ProcessIdentity
    }

    var bootId: String
    /// Whether they outlive the `up` that started them.
    var detached: Bool
    var daemons: [Entry]
}

/// ports.json: what an endpoint had last time, so that a client's address holds over a restart.
struct LocalClusterPorts: Codable, Hashable {
    var coordinator: UInt16
    var ranks: [UInt16]
}

extension LocalClusterDirectory {
    /// - Returns: nil before the first `up`.
    /// - Throws: `.invalidConfiguration` when the file is damaged.
    public func readConfiguration() throws(ServiceError) -> LocalClusterConfiguration? {
        try read(LocalClusterConfiguration.self, from: configurationFile)
    }

    func writeConfiguration(_ configuration: LocalClusterConfiguration) throws(ServiceError) {
        try write(configuration, to: configurationFile)
    }

    func readDaemons() throws(ServiceError) -> RunningDaemons? { try read(RunningDaemons.self, from: pidsFile) }

    /// Nil removes the file: nothing runs.
    func writeDaemons(_ daemons: RunningDaemons?) throws(ServiceError) {
        if let daemons { return try write(daemons, to: pidsFile) }
        try? FileManager.default.removeItem(atPath: pidsFile)
    }

    /// Nil also when the file is damaged: ports are a convenience, and others are as good.
    func readPorts() -> LocalClusterPorts? { (try? read(LocalClusterPorts.self, from: portsFile)) ?? nil }

    func writePorts(_ ports: LocalClusterPorts) throws(ServiceError) { try write(ports, to: portsFile) }

    /// Those of a thousand ranks have less.
    private static let fileByteCountMax = 1 << 20

    private func read<Value: Decodable>(_: Value.Type, from file: String) throws(ServiceError) -> Value? {
        guard FileManager.default.fileExists(atPath: file) else { return nil }
        let remedy = "restore it, or remove \(path) to start with an empty cluster"
        let bytes: [UInt8]
        do throws(WholeFile.Refusal) { bytes = try WholeFile(file, byteCountMax: Self.fileByteCountMax).bytes } catch {
            throw error.error(.invalidConfiguration, remedy)
        }
        let decoder = JSONDecoder()
        decoder.keyDecodingStrategy = .convertFromSnakeCase
        do { return try decoder.decode(Value.self, from: Data(bytes)) } catch {
            throw ServiceError(
                .invalidConfiguration,
                "\(file) cannot be parsed (\(systemReason(error))); \(remedy).")
        }
    }

    /// Replaces the file as a whole: a reader sees the old or the new one.
    private func write(_ value: some Encodable, to file: String) throws(ServiceError) {
        let encoder = JSONEncoder()
        encoder.keyEncodingStrategy = .convertToSnakeCase
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
        do { try encoder.encode(value).write(to: URL(fileURLWithPath: file), options: .atomic) } catch {
            throw ServiceError(
                .invalidConfiguration,
                "\(file) cannot be written: \(systemReason(error)). Free space, or choose another --dir.")
        }
    }
}
