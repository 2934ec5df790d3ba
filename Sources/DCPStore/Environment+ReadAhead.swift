// SPDX-License-Identifier: Apache-2.0

internal import Glibc

extension Environment {
    /// Runs a body that reads only keys and no large values, with read-ahead disabled: the kernel then reads only the
    /// touched pages. Leaf pages are between the runs of values, and around each the kernel would read as much as the
    /// device's read-ahead, often megabytes. To be called before any other thread reads.
    public func withoutReadAhead<Value>(_ body: () throws -> Value) rethrows -> Value {
        advise(MADV_RANDOM)
        defer { advise(MADV_NORMAL) }
        return try body()
    }

    /// Only advice: if it fails, reading is slower.
    private func advise(_ advice: Int32) {
        var status = stat()
        guard let map, stat(dataPath, &status) == 0 else { return }
        madvise(map.address, min(Int(status.st_size), map.byteCount), advice)
    }
}
