import ArgumentParser
import DCPConsole
import DCPCore
import DCPTransfer
import Glibc

struct Backup: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Copy the stores of the coordinator and of all ranks, as they are at one moment, while they serve.",
        discussion: """
            Every token that was committed when the backup began is in it, and no sequence is cut between two states. The \
            directory is new, and appears complete or not at all; backup.json in it names cluster, epoch, shape, files with \
            checksums, models and sequences. Its files have holes where the stores hold nothing: copy them with `cp \
            --sparse=always`, `rsync -S` or `tar -S`.

            --only copies some stores, for a rank alone or the coordinator. Nothing is left behind by a backup that is \
            interrupted; one that is killed leaves a hidden directory, which the next names.

            With - for the directory the same files go to standard output as a tar archive, backup.json last, and what is \
            said of them to standard error. Whoever reads it must not stand still for a minute. One that is interrupted \
            has no end, and is not restored.

            EXAMPLE
              dcpctl backup /srv/backup/dcp-$(date +%F)
              dcpctl backup /srv/backup/coordinator-$(date +%F) --only coordinator
              dcpctl backup - | zstd | ssh backup-host 'cat > dcp.tar.zst'
            """)

    @Argument(help: "The directory to make; - for a tar archive on standard output.")
    var directory: String
    @Option(help: ArgumentHelp("Copy this store only: coordinator, rank-0. May be given again.", valueName: "store"))
    var only: [String] = []
    @OptionGroup var client: ClientOptions

    func validate() throws { _ = try stores(only) }

    func run() async throws {
        try await execute {
            let bar = LateProgressBar("backup", unit: "MiB")
            let output = directory == streamName ? try PipeEnd.standardOutput() : nil
            // Who reads it may end, which is to be said.
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
        abstract: "Put stores of a backup in place, for daemons that are stopped.",
        discussion: """
            Each store goes to a directory of its own, as DIRECTORY/coordinator and DIRECTORY/rank-0. \
            All files are compared with their checksums before the first store has its name. A store that is there is never \
            overwritten: move it away.

            With all stores of one backup the cluster starts as it was. With some of them it does not by itself: see the \
            article Backup. With - for the directory it is read from standard input, as `dcpctl backup -` has written it; one \
            that ends early restores nothing.

            EXAMPLE
              dcpctl restore /srv/backup/dcp-2026-11-29 --owner dcp
              dcpctl restore /srv/backup/dcp-2026-11-29 --only rank-1 --to /var/lib/dcp
              ssh backup-host cat dcp.tar.zst | zstd -dc | dcpctl restore - --owner dcp
            """)

    @Argument(help: "The directory that `dcpctl backup` has made; - for standard input.")
    var directory: String
    @Option(help: ArgumentHelp("Restore this store only: coordinator, rank-0. May be given again.", valueName: "store"))
    var only: [String] = []
    @Option(help: ArgumentHelp("The directory that the stores are to be in.", valueName: "directory"))
    var to = "/var/lib/dcp"
    @Option(
        help: ArgumentHelp(
            "The user that the daemons run as, whose the stores are to be. Default: the owner of that directory.",
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
            throw ValidationError("`\(name)` is no store; give --only coordinator, or --only rank-0 and the like.")
        }
        return store
    }
}
