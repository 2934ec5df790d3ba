// SPDX-License-Identifier: Apache-2.0

internal import CLinux
public import DCPCore
internal import DCPFiles
internal import Foundation
internal import Glibc
internal import Synchronization

/// A daemon process on this machine that this process started or found running.
///
/// It is held by a pidfd, which refers to the process and not to its number: no signal reaches another process that
/// gets the same pid later, and its end can be polled. Safe to use from any thread. Calls with wait or terminate in
/// their names block; async callers run them on a separate thread.
public final class DaemonProcess: Sendable {
    /// The name in messages: `coordinator`, `rank 2`.
    public let name: String
    public let identity: ProcessIdentity
    public let logPath: String

    /// The offset of this run in the log; nil for a process that was found running.
    private let logStart: Int?
    private let descriptor: OwnedDescriptor
    private let state: Mutex<State>

    private struct State {
        var lifeline: OwnedDescriptor?
        var exit: ProcessExit?
    }

    private init(
        name: String, identity: ProcessIdentity, logPath: String, logStart: Int?, descriptor: OwnedDescriptor,
        lifeline: OwnedDescriptor?
    ) {
        self.name = name
        self.identity = identity
        self.logPath = logPath
        self.logStart = logStart
        self.descriptor = descriptor
        self.state = Mutex(State(lifeline: lifeline))
    }

    /// Starts an executable in a new session, with its output appended to a log and no other descriptors.
    ///
    /// - Parameters:
    ///   - environment: replaces values of this process's environment. Variables that a service manager set only for
    ///     this process are never passed on.
    ///   - lifeline: standard input is a pipe whose other end only this object holds. When the object is released, or
    ///     this process ends for any reason, the daemon reads end of file. Otherwise standard input is /dev/null.
    /// - Throws: `.invalidConfiguration` with the executable and the system's reason if it cannot be run.
    public static func spawn(
        name: String, executable: String, arguments: [String], environment: [String: String] = [:], logPath: String,
        lifeline: Bool
    ) throws(ServiceError) -> DaemonProcess {
        let log = try openDescriptor(logPath, O_WRONLY | O_CREAT | O_APPEND, mode: 0o640)
        let logStart = Int(lseek(log.value, 0, SEEK_END))
        let input: OwnedDescriptor
        var writeEnd: OwnedDescriptor?
        if lifeline {
            var ends: (read: Int32, write: Int32) = (-1, -1)
            let result = dcp_pipe(&ends.read, &ends.write)
            guard result == 0 else { throw spawnFailure(executable, -result) }
            input = OwnedDescriptor(ends.read)
            writeEnd = OwnedDescriptor(ends.write)
        } else {
            input = try openDescriptor("/dev/null", O_RDONLY)
        }
        let variables = inheritedEnvironment().merging(environment) { $1 }.map { "\($0.key)=\($0.value)" }.sorted()
        let pid = withCStrings([executable] + arguments) { argv in
            withCStrings(variables) { envp in dcp_spawn(executable, argv, envp, input.value, log.value) }
        }
        guard pid > 0 else { throw spawnFailure(executable, -pid) }
        // A child keeps its pid until it is reaped, and only this object reaps it: both reads are of this process.
        let descriptor = dcp_pidfd_open(pid)
        guard descriptor >= 0, let status = ProcessIdentity.status(ofPID: pid) else {
            Glibc.kill(pid, SIGKILL)
            waitpid(pid, nil, 0)
            throw spawnFailure(executable, descriptor < 0 ? -descriptor : ESRCH)
        }
        return DaemonProcess(
            name: name, identity: ProcessIdentity(pid: pid, startTime: status.startTime), logPath: logPath,
            logStart: logStart, descriptor: OwnedDescriptor(descriptor), lifeline: writeEnd)
    }

    /// A process started by another one; nil if it has ended, even if another process now has its pid.
    public static func attach(name: String, identity: ProcessIdentity, logPath: String) -> DaemonProcess? {
        guard identity.pid > 0 else { return nil }
        let descriptor = dcp_pidfd_open(identity.pid)
        guard descriptor >= 0 else { return nil }
        let owned = OwnedDescriptor(descriptor)
        // Compared after the pidfd was opened: the process of that start time lived before, and still does, so it is
        // the one the pidfd holds.
        guard identity.isRunning else { return nil }
        return DaemonProcess(
            name: name, identity: identity, logPath: logPath, logStart: nil, descriptor: owned, lifeline: nil)
    }

    public var pid: Int32 { identity.pid }
    /// Polls readable when the process has ended.
    var pollDescriptor: Int32 { descriptor.value }

    /// How it ended; nil while it runs. Reaps the child.
    public var exit: ProcessExit? {
        state.withLock { state in
            if let exit = state.exit { return exit }
            var value: Int32 = 0
            switch UInt32(bitPattern: dcp_pidfd_reap(descriptor.value, &value)) {
            case DCP_EXIT_RUNNING.rawValue: return nil
            case DCP_EXIT_STATUS.rawValue: state.exit = .status(value)
            case DCP_EXIT_SIGNAL.rawValue: state.exit = .signal(value)
            // Not a child: only the pidfd tells.
            default: state.exit = DaemonWatch.hasEnded(descriptor.value) ? .unknown : nil
            }
            return state.exit
        }
    }

    /// Blocks until the process has ended, or until an instant, and then returns nil. It never polls.
    public func waitForExit(until deadline: ContinuousClock.Instant? = nil) -> ProcessExit? {
        _ = DaemonWatch.pollUntilReadable([descriptor.value], deadline: deadline)
        return exit
    }

    /// Sends a signal; does nothing if the process has ended.
    public func signal(_ number: Int32) {
        guard exit == nil else { return }
        // ESRCH: it ended meanwhile, which is no failure of ours.
        _ = dcp_pidfd_signal(descriptor.value, number)
    }

    /// How a daemon was stopped.
    public enum StopOutcome: Hashable, Sendable, CustomStringConvertible {
        case stopped(ProcessExit)
        /// It did not end on SIGTERM within its deadline and got SIGKILL.
        case killed(after: Duration)

        public var description: String {
            switch self {
            case .stopped(.status(0)), .stopped(.unknown): "stopped"
            case .stopped(let exit): "\(exit)"
            case .killed(let deadline): "did not stop within \(deadline) and was killed"
            }
        }
    }

    /// Sends SIGTERM, waits for the end, and sends SIGKILL after the deadline. Blocks.
    public func terminate(deadline: Duration) -> StopOutcome {
        let start = ContinuousClock.now
        signal(SIGTERM)
        return finishTermination(since: start, until: start + deadline)
    }

    /// The second half of `terminate`, for a caller that signals several processes first.
    func finishTermination(
        since start: ContinuousClock.Instant, until deadline: ContinuousClock.Instant
    ) -> StopOutcome {
        if let exit = waitForExit(until: deadline) { return .stopped(exit) }
        signal(SIGKILL)
        _ = waitForExit()
        return .killed(after: ContinuousClock.now - start)
    }

    /// Sends SIGKILL and waits for the end. Blocks for as long as the kernel takes to free the process.
    @discardableResult
    public func kill() -> ProcessExit? {
        signal(SIGKILL)
        return waitForExit()
    }

    /// Closes the lifeline: the daemon reads end of file on its standard input and stops by itself.
    public func closeLifeline() { state.withLock { $0.lifeline = nil } }

    /// The last lines this run wrote to its log, oldest first.
    public func lastLogLines(max: Int = 12) -> [String] {
        DaemonLogFile.lastLines(of: logPath, from: logStart ?? 0, max: max)
    }
}

extension DaemonProcess {
    private static func spawnFailure(_ executable: String, _ number: Int32) -> ServiceError {
        ServiceError(
            .invalidConfiguration,
            "\(executable) cannot be started: \(systemMessage(number)). Build or install it, or set DCP_BIN_DIR to the "
                + "directory that holds it.")
    }

    /// The environment without what systemd meant for this process alone: a daemon that inherits NOTIFY_SOCKET would
    /// report itself as the service it was started from.
    private static func inheritedEnvironment() -> [String: String] {
        let own: Set<String> = [
            "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES",
            "JOURNAL_STREAM", "INVOCATION_ID",
        ]
        return ProcessInfo.processInfo.environment.filter { !own.contains($0.key) }
    }

    /// Lends a NULL-terminated array of C strings for the duration of a call.
    private static func withCStrings<Result>(
        _ strings: [String], _ body: (UnsafePointer<UnsafeMutablePointer<CChar>?>) -> Result
    ) -> Result {
        var pointers: [UnsafeMutablePointer<CChar>?] = strings.map { strdup($0) }
        pointers.append(nil)
        defer { pointers.forEach { free($0) } }
        return pointers.withUnsafeBufferPointer { body($0.baseAddress!) }
    }
}
