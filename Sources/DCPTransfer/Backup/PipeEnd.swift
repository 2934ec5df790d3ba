// SPDX-License-Identifier: Apache-2.0

public import DCPCore
internal import DCPFiles
internal import Glibc

/// Standard output or standard input for a backup.
///
/// It waits for a pipe in intervals, so that a cancelled task ends. It opens the pipe again for that, because
/// non-blocking mode is a property of the open file, which other processes share.
public final class PipeEnd: Sendable {
    private let descriptor: OwnedDescriptor
    private static let patienceMilliseconds: Int32 = 100

    /// - Throws: `.invalidRequest` for a terminal.
    public static func standardOutput() throws(ServiceError) -> PipeEnd {
        guard isatty(STDOUT_FILENO) == 0 else {
            throw ServiceError(
                .invalidRequest,
                "Standard output is a terminal, but a backup is binary data. Pipe it, as in dcpctl backup - | zstd > "
                    + "backup.tar.zst, or give a directory.")
        }
        return try PipeEnd(STDOUT_FILENO, O_WRONLY)
    }

    /// - Throws: `.invalidRequest` for a terminal.
    public static func standardInput() throws(ServiceError) -> PipeEnd {
        guard isatty(STDIN_FILENO) == 0 else {
            throw ServiceError(
                .invalidRequest,
                "Standard input is a terminal. Pipe a backup to it, as in zstd -dc backup.tar.zst | dcpctl restore -, "
                    + "or name a directory.")
        }
        return try PipeEnd(STDIN_FILENO, O_RDONLY)
    }

    /// - Parameters:
    ///   - number: of a descriptor that stays the caller's.
    ///   - access: `O_RDONLY` or `O_WRONLY`.
    package init(_ number: Int32, _ access: Int32) throws(ServiceError) {
        var status = stat()
        var opened: Int32 = -1
        if fstat(number, &status) == 0, status.st_mode & S_IFMT == S_IFIFO {
            // It may belong to another user, as with sudo: then this blocks as long as the pipe does.
            opened = open("/proc/self/fd/\(number)", access | O_NONBLOCK | O_CLOEXEC)
        }
        if opened < 0 { opened = fcntl(number, F_DUPFD_CLOEXEC, 3) }
        guard opened >= 0 else {
            throw ServiceError(.invalidRequest, "Descriptor \(number) cannot be used: \(systemMessage(errno)).")
        }
        descriptor = OwnedDescriptor(opened)
    }

    /// Writes all bytes.
    /// - Throws: `.invalidRequest` if the reader has ended, or there is no room; `.stepAborted` if the task is
    ///   cancelled.
    func write(_ bytes: ArraySlice<UInt8>) throws(ServiceError) {
        var rest = bytes
        while !rest.isEmpty {
            let count = rest.withUnsafeBytes { Glibc.write(descriptor.value, $0.baseAddress, $0.count) }
            if count >= 0 {
                rest = rest.dropFirst(count)
                continue
            }
            let number = errno
            switch number {
            case EINTR: break
            case EAGAIN: try wait(for: POLLOUT)
            case EPIPE:
                throw ServiceError(
                    .invalidRequest,
                    "The reader of standard output has ended: \(systemMessage(number)). The backup it received is "
                        + "incomplete; find out why it ended, and start again.")
            default:
                throw ServiceError(
                    .invalidRequest,
                    "Standard output cannot be written: \(systemMessage(number)). The backup written so far is "
                        + "incomplete; free space or choose another place, and start again.")
            }
        }
    }

    /// Reads some bytes, none at the end.
    func read(into buffer: inout [UInt8], count: Int) throws(ServiceError) -> Int {
        while true {
            let got = buffer.withUnsafeMutableBytes {
                Glibc.read(descriptor.value, $0.baseAddress, min(count, $0.count))
            }
            if got >= 0 { return got }
            let number = errno
            switch number {
            case EINTR: break
            case EAGAIN: try wait(for: POLLIN)
            default:
                throw ServiceError(
                    .invalidRequest, "Standard input cannot be read: \(systemMessage(number)). Nothing was restored.")
            }
        }
    }

    private func wait(for event: Int32) throws(ServiceError) {
        guard !Task.isCancelled else { throw ServiceError(.stepAborted, "The transfer was interrupted.") }
        var entry = pollfd(fd: descriptor.value, events: Int16(event), revents: 0)
        poll(&entry, 1, Self.patienceMilliseconds)
    }
}
