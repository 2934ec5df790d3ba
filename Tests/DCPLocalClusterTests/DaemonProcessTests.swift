// SPDX-License-Identifier: Apache-2.0

import DCPCore
import DCPLocalCluster
import DCPTestKit
import Foundation
import Testing

@Suite("daemons as processes")
struct DaemonProcessTests {
    private let directory: TemporaryDirectory
    private let events: EventPipe

    init() throws {
        directory = TemporaryDirectory()
        events = try EventPipe(directory.path("events"))
    }

    private func shell(_ script: String, lifeline: Bool = false, log: String = "log") throws -> DaemonProcess {
        try DaemonProcess.spawn(
            name: "test", executable: "/bin/sh", arguments: ["-c", script],
            environment: ["DCP_TEST_EVENTS": events.path], logPath: directory.path(log), lifeline: lifeline)
    }

    @Test("the exit status, or the signal, is reported once and stays")
    func exits() throws {
        let failing = try shell("exit 70")
        #expect(failing.waitForExit() == .status(70))
        #expect(failing.exit == .status(70))
        let process = try shell("echo up > $DCP_TEST_EVENTS; exec tail -f /dev/null")
        #expect(events.next() == "up")
        #expect(process.exit == nil)
        #expect(process.waitForExit(until: .now) == nil)
        #expect(process.terminate(deadline: .seconds(30)) == .stopped(.signal(SIGTERM)))
        #expect(process.terminate(deadline: .seconds(30)) == .stopped(.signal(SIGTERM)))
    }

    @Test("a daemon that ignores SIGTERM gets SIGKILL at its deadline, and the outcome says so")
    func ignoresTermination() throws {
        let process = try shell("trap '' TERM; echo up > $DCP_TEST_EVENTS; exec tail -f /dev/null")
        #expect(events.next() == "up")
        guard case .killed(let after) = process.terminate(deadline: .milliseconds(20)) else {
            Issue.record("it stopped")
            return
        }
        #expect(after >= .milliseconds(20))
        #expect(process.exit == .signal(SIGKILL))
    }

    @Test("a lifeline that closes is end of file to its daemon, and to no other")
    func lifeline() throws {
        let first = try shell("cat; exit 3", lifeline: true)
        // Started while the first one's lifeline was open: it must not have inherited it.
        let second = try shell("echo up > $DCP_TEST_EVENTS; cat; exit 4", lifeline: true)
        #expect(events.next() == "up")
        first.closeLifeline()
        #expect(first.waitForExit() == .status(3))
        #expect(second.exit == nil)
        second.closeLifeline()
        #expect(second.waitForExit() == .status(4))
    }

    @Test("a daemon leads a new session, with default signals and none of our descriptors")
    func isolation() throws {
        // Not close-on-exec, as a library may open one.
        let ours = open("/dev/null", O_RDONLY)
        defer { close(ours) }
        #expect(ours >= 3)
        // The suites share a process: how many descriptors are open beside it depends on what runs meanwhile.
        let descriptors = max(200, ours + 1)
        let process = try shell(
            """
            i=0; while [ $i -lt \(descriptors) ]; do [ -e /proc/$$/fd/$i ] && echo fd $i; i=$((i + 1)); done
            cut -d' ' -f1,6 /proc/$$/stat; exec grep -E 'SigIgn|SigBlk' /proc/self/status
            """)
        #expect(process.waitForExit() == .status(0))
        let lines = process.lastLogLines()
        #expect(lines.prefix(4) == ["fd 0", "fd 1", "fd 2", "\(process.pid) \(process.pid)"])
        // Read after exec: a shell that waits for a child blocks signals itself. Signals 32 and 33 are the C library's
        // own, which posix_spawn leaves ignored; a program never sees them.
        #expect(lines.filter { $0.hasPrefix("Sig") && $0.hasSuffix("0000000") }.count == 2, "\(lines)")
    }

    @Test("the log's last lines are those of this run, without control characters")
    func log() throws {
        #expect(try shell("echo of an earlier run").waitForExit() == .status(0))
        let process = try shell(#"for i in 1 2 3; do echo line $i; done; printf 'red \033[31m\n' >&2"#)
        #expect(process.waitForExit() == .status(0))
        #expect(process.lastLogLines(max: 3) == ["line 2", "line 3", "red  [31m"])
        #expect(process.lastLogLines() == ["line 1", "line 2", "line 3", "red  [31m"])
    }

    @Test("a process is found by pid and start time; a reused pid is a stranger's")
    func identity() throws {
        let process = try shell("cat", lifeline: true)
        #expect(process.identity.isRunning)
        let found = try #require(DaemonProcess.attach(name: "x", identity: process.identity, logPath: ""))
        #expect(found.exit == nil)
        let stranger = ProcessIdentity(pid: process.pid, startTime: process.identity.startTime - 1)
        #expect(stranger.isRunning == false)
        #expect(DaemonProcess.attach(name: "x", identity: stranger, logPath: "") == nil)
        #expect(ProcessIdentity(pid: process.pid) == process.identity)
        process.closeLifeline()
        // The first wait reaps it; the second still learns that it has ended.
        #expect(found.waitForExit() != nil)
        #expect(process.waitForExit() != nil)
        #expect(process.identity.isRunning == false)
        #expect(DaemonProcess.attach(name: "x", identity: process.identity, logPath: "") == nil)
        #expect(DaemonProcess.attach(name: "x", identity: .init(pid: -1, startTime: 0), logPath: "") == nil)
    }

    @Test("an executable that cannot be run is refused at once, naming it")
    func notExecutable() {
        for path in [directory.path("none"), directory.path] {
            let error = #expect(throws: ServiceError.self) {
                try DaemonProcess.spawn(
                    name: "x", executable: path, arguments: [], logPath: directory.path("log"), lifeline: false)
            }
            #expect(error?.code == .invalidConfiguration)
            #expect(error?.message.contains(path) == true)
        }
    }
}
