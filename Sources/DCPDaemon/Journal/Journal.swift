// SPDX-License-Identifier: Apache-2.0

internal import CSystemd
internal import Glibc

/// The journal's native protocol, when systemd has connected standard error to it.
enum Journal {
    /// Whether standard error is the journal: systemd names its device and inode, so that a daemon whose output was
    /// redirected further is not fooled. See systemd.exec(5), `JOURNAL_STREAM`.
    static let isConnected: Bool = {
        guard let variable = getenv("JOURNAL_STREAM") else { return false }
        var status = stat()
        guard fstat(STDERR_FILENO, &status) == 0 else { return false }
        return String(cString: variable) == "\(status.st_dev):\(status.st_ino)"
    }()

    /// - Returns: false when the entry could not be handed over; it then belongs on standard error.
    static func send(_ fields: [String]) -> Bool {
        // One buffer, so that the pointers of all fields live as long as the call.
        let bytes = fields.map { Array($0.utf8) }
        var buffer = bytes.flatMap { $0 }
        return buffer.withUnsafeMutableBytes { buffer in
            var offset = 0
            let vectors = bytes.map { field in
                defer { offset += field.count }
                return iovec(iov_base: buffer.baseAddress! + offset, iov_len: field.count)
            }
            // sd_journal_sendv(3): negative errno; large entries travel in a memfd.
            return sd_journal_sendv(vectors, Int32(vectors.count)) >= 0
        }
    }
}
