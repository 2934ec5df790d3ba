internal import DCPStore

/// What a daemon has said of reads that fail under its store's map, before it ends of them.
enum FaultReport {
    static func report() {
        // The journal reads standard error line by line; `<2>` is critical, as for other ends by failure.
        MapFaults.report(prefix: Journal.isConnected ? "<2>" : "")
    }
}
