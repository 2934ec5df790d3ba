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
