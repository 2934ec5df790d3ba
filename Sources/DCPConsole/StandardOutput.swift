// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import Glibc

/// A program's data, written so that what is lost is noticed: `print` ignores a full disk and a reader that has gone.
public enum StandardOutput {
    /// The reader at the other end of a pipe has gone.
    public struct ReaderGone: Error {
        public init() {}

        /// Ends the program as SIGPIPE does: a shell sees 141. A network library ignores that signal for the whole
        /// process, so it is this error first, which lets a command stop what it started.
        public func endProgram() -> Never {
            signal(SIGPIPE, SIG_DFL)
            raise(SIGPIPE)
            exit(128 + SIGPIPE)
        }
    }

    /// Writes all of a text.
    /// - Throws: `ReaderGone`; `.invalidRequest` with the system's reason if it cannot be written.
    public static func write(_ text: String) throws { try write(text, to: STDOUT_FILENO) }

    package static func write(_ text: String, to descriptor: Int32) throws {
        var text = text
        let number = text.withUTF8 { bytes -> Int32 in
            var done = 0
            while done < bytes.count {
                let count = Glibc.write(descriptor, bytes.baseAddress! + done, bytes.count - done)
                if count >= 0 { done += count } else if errno != EINTR { return errno }
            }
            return 0
        }
        switch number {
        case 0: return
        case EPIPE: throw ReaderGone()
        default:
            throw ServiceError(
                .invalidRequest,
                "Standard output cannot be written: \(String(cString: strerror(number))). Free space there, or send it "
                    + "elsewhere.")
        }
    }

    /// Keeps the numbers of standard streams that are closed from the files and sockets that the program opens: what is
    /// printed would go into them. A write to such a stream fails, as it does to a closed one.
    public static func reserveClosedStreams() {
        for stream in [STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO] where fcntl(stream, F_GETFD) < 0 {
            // The lowest free number is this one.
            _ = open("/dev/null", stream == STDIN_FILENO ? O_WRONLY : O_RDONLY)
        }
    }
}
