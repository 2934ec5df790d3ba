// SPDX-License-Identifier: Apache-2.0

internal import CLinux

/// Failed reads through a store's map, which cause SIGBUS because there is no call to return an error.
///
/// The process cannot continue, because the reading instruction has no other outcome. But it can report the file, the
/// offset and the remedy, which a bare "killed by signal 7" does not.
public enum MapFaults {
    /// Reports them on standard error before they kill the process. Called once, at a daemon's start.
    /// - Parameter prefix: begins the line: if the journal reads standard error, `<2>` sets the severity.
    public static func report(prefix: String = "") {
        // The process dies even if the report fails.
        _ = dcp_fault_report(prefix)
    }
}
