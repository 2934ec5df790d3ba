internal import CLMDB
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
        var info = MDB_envinfo()
        // mdb_env_info gives the map's address whether it is fixed or not (mdb.c, `arg->me_mapaddr = env->me_map`).
        guard mdb_env_info(handle, &info) == MDB_SUCCESS, let map = info.me_mapaddr else { return }
        var status = stat()
        guard stat(directory + "/data.mdb", &status) == 0 else { return }
        madvise(map, min(Int(status.st_size), info.me_mapsize), advice)
    }
}
