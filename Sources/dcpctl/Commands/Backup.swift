// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import DCPConsole
import DCPCore
import DCPTransfer
import Glibc

struct Backup: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Copy a consistent snapshot of the stores of the coordinator and all ranks while they serve.",
        discussion: """
            The backup has every token that was committed when it began, and all stores at the same moment. The \
            directory must not exist; it appears complete or not at all. Its backup.json lists cluster, epoch, shape, \
            files with checksums, models and sequences. The files are sparse: copy them with `cp --sparse=always`, \
            `rsync -S` or `tar -S`.

            --only copies single stores, of a rank or the coordinator. An interrupted backup leaves nothing behind; a \
            killed one leaves a hidden directory, which the next backup to the same directory removes.

            With - as the directory the same files go to standard output as a tar archive, with backup.json last, and \
            messages go to standard error. The reader must not pause for a minute. An interrupted archive is \
            incomplete, and restore refuses it.

            EXAMPLE
              dcpctl backup /srv/backup/dcp-$(date +%F)
              dcpctl backup /srv/backup/coordinator-$(date +%F) --only coordinator
              dcpctl backup - | zstd | ssh backup-host 'cat > dcp.tar.zst'
            """)

    @Argument(help: "The directory to create; - for a tar archive on standard output.")
    var directory: String
    @Option(help: ArgumentHelp("Copy this store only: coordinator, rank-0. May be repeated.", valueName: "store"))
    var only: [String] = []
    @OptionGroup var client: ClientOptions

    func validate() throws { _ = try stores(only) }

    func run() async throws {
        try await execute {
            let bar = LateProgressBar("backup", unit: "MiB")
            let output = directory == streamName ? try PipeEnd.standardOutput() : nil
            // The reader may end, which must be reported.
            if output != nil { signal(SIGPIPE, SIG_IGN) }
            let manifest = try await interruptible { () async throws -> BackupManifest in
                var made: BackupManifest?
                do {
                    try await client.withCluster { cluster in
                        let progress = { @Sendable in bar.update(done: $0 >> 20, of: $1 >> 20) }
                        if let output {
                            made = try await cluster.backup(into: output, of: try stores(only), progress: progress)
                        } else {
                            made = try await cluster.backup(to: directory, of: try stores(only), progress: progress)
                        }
                    }
                } catch let error as ServiceError {
                    bar.finish()
                    guard Task.isCancelled else { throw error }
                    throw CancellationError()
                }
                guard let made else { preconditionFailure("a body that returned has a manifest") }
                return made
            }
            bar.finish()
            guard output != nil else { return try client.output.print(manifest) { text(of: manifest) } }
            // Standard output is the backup.
            client.output.json
                ? ErrorOutput.printLine(try JSONOutput.string(manifest)) : printMessage(text(of: manifest))
        }
    }

    private func text(of manifest: BackupManifest) -> String {
        let used = manifest.files.reduce(0) { $0 + $1.usedBytes }
        return
            "Copied \(manifest.files.count) stores (\(ByteFormat.format(used))) of cluster \(manifest.cluster) in epoch "
            + "\(manifest.epoch), with \(manifest.models.count) models and \(manifest.sequences.count) sequences, to "
            + (directory == streamName ? "standard output." : "\(directory).")
    }
}

/// Of a backup that is a stream.
private let streamName = "-"

struct Restore: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Restore stores from a backup while their daemons are stopped.",
        discussion: """
            Each store gets its own directory, such as DIRECTORY/coordinator or DIRECTORY/rank-0. All checksums are \
            verified before the first store is put in place. An existing store is never overwritten; move it away \
            first. Two restores cannot write one store at once.

            With all stores of one backup the cluster starts in its earlier state. With only some of them it needs \
            further steps: see the article Backup. With - as the directory the command reads the output of `dcpctl \
            backup -` from standard input; an incomplete archive restores nothing.

            EXAMPLE
              dcpctl restore /srv/backup/dcp-2026-11-29 --owner dcp
              dcpctl restore /srv/backup/dcp-2026-11-29 --only rank-1 --to /var/lib/dcp
              ssh backup-host cat dcp.tar.zst | zstd -dc | dcpctl restore - --owner dcp
            """)

    @Argument(help: "The directory that `dcpctl backup` made; - for standard input.")
    var directory: String
    @Option(help: ArgumentHelp("Restore this store only: coordinator, rank-0. May be repeated.", valueName: "store"))
    var only: [String] = []
    @Option(help: ArgumentHelp("The parent directory of the stores.", valueName: "directory"))
    var to = "/var/lib/dcp"
    @Option(
        help: ArgumentHelp(
            "The user that the daemons run as, who will own the stores. Default: the owner of --to.",
            valueName: "user"))
    var owner: String?
    @OptionGroup var output: OutputOptions

    func validate() throws { _ = try stores(only) }

    func run() async throws {
        try await execute {
            let bar = LateProgressBar("restore", unit: "MiB")
            defer { bar.finish() }
            let (manifest, restored) = try restore { bar.update(done: $0 >> 20, of: $1 >> 20) }
            bar.finish()
            try output.print(restored.map { RestoredView(store: $0.store.fileName, path: $0.path, bytes: $0.bytes) }) {
                restored.map { "Restored \($0.store.fileName) of \(manifest.takenAt) to \($0.path)." }.joined(
                    separator: "\n")
            }
        }
    }
}

extension Restore {
    private func restore(
        progress: (Int, Int) -> Void
    ) throws -> (manifest: BackupManifest, stores: [RestoredStore]) {
        let stores = try stores(only)
        guard directory != streamName else {
            return try BackupManifest.restore(
                from: PipeEnd.standardInput(), stores, to: to, owner: owner, progress: progress)
        }
        let manifest = try BackupManifest(of: directory)
        return (manifest, try manifest.restore(from: directory, stores, to: to, owner: owner, progress: progress))
    }
}

private struct RestoredView: Encodable {
    var store: String
    var path: String
    var bytes: Int
}

/// - Throws: for a name that no store has.
private func stores(_ names: [String]) throws -> [DaemonRole]? {
    guard !names.isEmpty else { return nil }
    return try names.map { name in
        guard let store = DaemonRole(fileName: name) else {
            throw ValidationError("`\(name)` is not a store; give --only coordinator, or --only rank-0 and the like.")
        }
        return store
    }
}
