// SPDX-License-Identifier: Apache-2.0

import DCPCore
import DCPLocalCluster
import DCPTestKit
import Foundation
import Glibc

/// Copies of a rank's store, where none belongs.
extension Chaos {
    /// A daemon that is to end, or a figure that is to change, has done so after this, or something is wrong.
    private static let waitMax = Duration.seconds(30)

    // MARK: In its place

    /// A rank comes back with an older copy of its store and is refused; nobody is cut. Then the newer store is put back, or
    /// the older one is taken, which cuts every sequence to what it holds.
    func restoreOlder(_ role: DaemonRole, accepting: Bool) async throws {
        guard let rank = role.rank else { return }
        let copy = try await copy(of: role, rank)
        let store = local.directory.data(of: role)
        if accepting { await pause.hold() }
        do {
            say("\(role) comes back with its store of change \(copy.mark)")
            try await local.kill(role)
            try copy.exchange(with: store)
            try await expectRefusal(of: role, copy)
            if accepting {
                accepted.accept(copy.held)
                say("the older store of \(role) is accepted")
                try await local.acceptOlderStore(of: rank)
            } else {
                try copy.exchange(with: store)
            }
            try local.start(role)
            try await waitUntilReady()
        } catch {
            await pause.release()
            throw error
        }
        await pause.release()
        let kind = accepting ? "older store accepted" : "older store refused, newer put back"
        tally.update { $0.copies[kind, default: 0] += 1 }
    }

    private func expectRefusal(of role: DaemonRole, _ copy: StoreCopy) async throws {
        try local.start(role)
        let process = local.daemon(role)
        let deadline = ContinuousClock.now + Self.waitMax
        let exit = await onOwnThread { process?.waitForExit(until: deadline) }
        let log = process?.lastLogLines().joined(separator: "\n") ?? ""
        guard exit == .status(78) else {
            throw SoakFailure("\(role) with a store of change \(copy.mark), an older copy, is not refused: \(log)")
        }
        let named = log.firstMatch(of: #/at change (\d+), but change (\d+) was durable before/#)
        guard let named, let came = UInt64(named.1), let had = UInt64(named.2), came == copy.mark, came < had else {
            throw SoakFailure(
                "\(role) came with change \(copy.mark), and the refusal does not name both changes: \(log)")
        }
    }

    // MARK: Beside it

    /// A copy of a rank's store is started beside the original, which serves on in its epoch.
    /// - Parameter killsOriginal: kill the original while the copy asks to be let in: it is not, since it is older.
    func startSecondHolder(of role: DaemonRole, killsOriginal: Bool) async throws {
        guard let rank = role.rank else { return }
        let copy = try await copy(of: role, rank)
        let label = #"dcp_stores_refused_total{peer="\#(rank.value)",cause="second_holder"}"#
        let (epoch, count) = (try await figure("dcp_epoch"), try await figure(label))
        let log = try logSize(of: .coordinator)
        let original = local.daemon(role)
        say("a copy beside \(role)")
        let second = try DaemonProcess.spawn(
            name: "a copy of \(role)", executable: "\(Self.binaries)/dcp-rank",
            arguments: [
                "--rank", "\(rank.value)", "--store", copy.path, "--listen", "unix:\(local.directory.path)/second.sock",
                "--coordinator", local.coordinatorEndpoint, "--threads", "1", "--http", "off", "--config", "/dev/null",
                "--stop-on-stdin-eof",
            ], logPath: local.directory.path + "/logs/second.log", lifeline: true)
        defer { second.kill() }
        try await wait("the copy beside \(role) to be refused") {
            try await figure(label) > count || second.exit != nil
        }
        // With the lease of a machine that stalled the original may have lost its place; the copy is still an older one.
        let stalled = try coordinatorLog(from: log).contains("sent nothing for its whole lease")
        let text = second.lastLogLines().joined(separator: "\n")
        guard second.exit == nil && text.contains("One of the two runs on a copy") || stalled else {
            throw SoakFailure("The copy beside \(role) ended, or does not know why it waits: \(text)")
        }
        guard try await figure("dcp_epoch") == epoch && original?.exit == nil || stalled else {
            throw SoakFailure("\(role) was disturbed by a process with a copy of its store")
        }
        if killsOriginal {
            try await local.kill(role)
            let deadline = ContinuousClock.now + Self.waitMax
            guard await onOwnThread({ second.waitForExit(until: deadline) }) == .status(78) else {
                throw SoakFailure("The older copy of \(role) was let in when the original had died")
            }
            try local.start(role)
        }
        let kind = killsOriginal ? "second holder refused, and when the first had died" : "second holder refused"
        tally.update { $0.copies[kind, default: 0] += 1 }
    }

    // MARK: What both need

    /// Copies a store that is closed for a moment, and returns when it is recorded that the original has come further.
    private func copy(of role: DaemonRole, _ rank: RankIndex) async throws -> StoreCopy {
        try await waitUntilReady()
        accepted.beginPeriod()
        // In an epoch that the period holds: a cut of the copy's epoch counts as missing in the copy.
        try await local.kill(role)
        try local.start(role)
        try await waitUntilReady()
        try await local.kill(role)
        let copy = try StoreCopy(
            of: local.directory.data(of: role), rank, try local.configuration.shape(),
            at: "\(local.directory.path)/copy-of-rank-\(rank.value)")
        try local.start(role)
        try await waitUntilReady()
        let label = #"dcp_rank_store_mark{peer="\#(rank.value)"}"#
        try await wait("\(role) to come further than its copy of change \(copy.mark)") {
            try await figure(label) > Double(copy.mark)
        }
        return copy
    }

    /// Of the coordinator.
    private func figure(_ name: String) async throws -> Double {
        let socket = String(local.directory.http(of: .coordinator).dropFirst("unix:".count))
        let answer = try await onOwnThread { Result { try HTTP.get("/metrics", at: socket) } }.get()
        guard let value = answer.sample(name) else { throw SoakFailure("The coordinator does not tell \(name)") }
        return value
    }

    private func wait(_ what: String, until isSo: () async throws -> Bool) async throws {
        let deadline = ContinuousClock.now + Self.waitMax
        while try await !isSo() {
            guard ContinuousClock.now < deadline, !tally.hasFailed else {
                throw SoakFailure("Waited in vain for \(what)")
            }
            // Between two questions to a live daemon.
            try await Task.sleep(for: .milliseconds(20))
        }
    }

    private func logSize(of role: DaemonRole) throws -> Int {
        try FileManager.default.attributesOfItem(atPath: local.directory.log(of: role))[.size] as? Int ?? 0
    }

    private func coordinatorLog(from offset: Int) throws -> String {
        let data = try Data(contentsOf: URL(filePath: local.directory.log(of: .coordinator)))
        return String(decoding: data.dropFirst(offset), as: UTF8.self)
    }

    private static var binaries: String {
        if let given = ProcessInfo.processInfo.environment["DCP_BIN_DIR"] { return given }
        let running = (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")) ?? ""
        return URL(filePath: running).deletingLastPathComponent().path
    }
}
