// SPDX-License-Identifier: Apache-2.0

/// Every process that there was in a simulation, to find those that something holds on to when it is over.
///
/// All that a daemon is made of leads to its process, by its event loop or its writer's host. So what is left of it keeps its
/// process, too: one cycle of references, and thousands of seeds do not fit into memory.
final class Census {
    private struct Entry {
        let name: String
        weak var process: Process?
    }

    private var entries: [Entry] = []

    func add(_ process: Process) { entries.append(Entry(name: process.name, process: process)) }

    /// Names of those that still exist.
    var survivors: [String] { entries.compactMap { $0.process == nil ? nil : $0.name } }
}
