internal import Glibc

extension Environment {
    /// Runs a body that reads keys and no large values, with the kernel told so: it then reads the pages that are
    /// touched and not those behind them. Leaf pages lie between the runs of the values, and around each the kernel
    /// would bring in as much as the device's read-ahead says, often megabytes. Before any other thread reads.
    public func withoutReadAhead<Value>(_ body: () throws -> Value) rethrows -> Value {
        advise(MADV_RANDOM)
        defer { advise(MADV_NORMAL) }
        return try body()
    }

    /// Advice: what fails costs time only.
    private func advise(_ advice: Int32) {
        var status = stat()
        guard let map, stat(dataPath, &status) == 0 else { return }
        madvise(map.address, min(Int(status.st_size), map.byteCount), advice)
    }
}
