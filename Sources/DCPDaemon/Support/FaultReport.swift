// SPDX-License-Identifier: Apache-2.0

internal import DCPStore

/// A daemon's report of failed reads through its store's map, before they kill it.
enum FaultReport {
    static func report() {
        // The journal reads standard error line by line; `<2>` is critical, as for other ends by failure.
        MapFaults.report(prefix: Journal.isConnected ? "<2>" : "")
    }
}
