// SPDX-License-Identifier: Apache-2.0

package import DCPCore
package import Glibc

/// A file descriptor that is closed when its last owner goes. Never closed earlier, so a number held here is never
/// another file's.
package final class OwnedDescriptor: Sendable {
    package let value: Int32

    package init(_ value: Int32) {
        precondition(value >= 0)
        self.value = value
    }

    deinit { close(value) }

    /// Writes all bytes.
    /// - Returns: 0, or the system's error number.
    package func write(_ bytes: UnsafeRawBufferPointer, at offset: Int) -> Int32 {
        var done = 0
        while done < bytes.count {
            let count = pwrite(value, bytes.baseAddress! + done, bytes.count - done, off_t(offset + done))
            if count >= 0 { done += count } else if errno != EINTR { return errno }
        }
        return 0
    }
}

/// The names in a directory but `.` and `..`; nil when it cannot be listed.
package func fileNames(in path: String) -> [String]? {
    guard let listing = opendir(path) else { return nil }
    defer { closedir(listing) }
    var names: [String] = []
    while let entry = readdir(listing) {
        let name = withUnsafeBytes(of: &entry.pointee.d_name) {
            String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
        }
        if name != ".", name != ".." { names.append(name) }
    }
    return names
}

/// The system's words for an error number: `No space left on device`.
package func systemMessage(_ number: Int32) -> String { String(cString: strerror(number)) }

/// Opens a file, close-on-exec.
/// - Parameter shown: what the error names instead of a path that the user does not know.
/// - Throws: `.invalidRequest` that names the path and the system's reason.
package func openDescriptor(
    _ path: String, _ flags: Int32, mode: mode_t = 0o644, shown: String? = nil
) throws(ServiceError) -> OwnedDescriptor {
    guard !path.utf8.contains(0) else {
        throw ServiceError(.invalidRequest, "The path \(path.debugDescription) holds a NUL byte; give another path.")
    }
    while true {
        let descriptor = open(path, flags | O_CLOEXEC, mode)
        if descriptor >= 0 { return OwnedDescriptor(descriptor) }
        let number = errno
        if number == EINTR { continue }
        throw ServiceError(
            .invalidRequest,
            "\(shown ?? path) cannot be opened: \(systemMessage(number)). Check the path and its permissions.")
    }
}

extension Array where Element: BitwiseCopyable {
    /// withUnsafeBytes for a body that throws a ServiceError: the standard library's forgets the type of the error.
    package func lendBytes(_ body: (UnsafeRawBufferPointer) throws(ServiceError) -> Void) throws(ServiceError) {
        let result = withUnsafeBytes { bytes in
            Result { () throws(ServiceError) in try body(bytes) }
        }
        try result.get()
    }
}
