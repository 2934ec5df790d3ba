internal import CLMDB
internal import CLinux

/// Reads that fail under a store's map: SIGBUS, since no call is there to return an error.
///
/// The process cannot go on: the instruction that reads has no other outcome. What can be done is to say which file it
/// was, where, and what to do, which a bare "killed by signal 7" does not.
public enum MapFaults {
    /// Has them reported on standard error before the process ends of them. For a daemon, once, at its start.
    /// - Parameter prefix: opens the line: where the journal reads standard error, `<2>` says how grave it is.
    public static func report(prefix: String = "") {
        // Without the report it ends as well.
        _ = dcp_fault_report(prefix)
    }
}

extension Environment {
    /// Has faults under this store's map named. - Returns: for `dcp_map_forget`.
    static func watchMap(_ handle: OpaquePointer, _ path: String) -> Int32 {
        var info = MDB_envinfo()
        guard mdb_env_info(handle, &info) == MDB_SUCCESS, let map = info.me_mapaddr else { return -1 }
        return dcp_map_watch(map, info.me_mapsize, path)
    }
}
