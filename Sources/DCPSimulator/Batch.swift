// SPDX-License-Identifier: Apache-2.0

package import DCPCore
internal import Foundation
internal import Glibc

/// Runs seeds one after the other, each in a separate directory that is removed afterwards.
package struct Batch: Sendable {
    private let directory: String
    private let steps: Int
    private let canary: BrokenRule?

    /// - Parameters:
    ///   - parent: where the stores are made; `/dev/shm` is fastest.
    ///   - steps: script entries over all clients of a seed.
    package init(in parent: String, steps: Int, canary: BrokenRule?) throws(ServiceError) {
        self.steps = steps
        self.canary = canary
        var template = Array("\(parent)/dcp-simulator-XXXXXX".utf8CString)
        // The process works in it: the paths in messages, and so the bytes of frames, are those of every run of a seed.
        guard mkdtemp(&template) != nil, let path = realpath(template, nil), chdir(path) == 0 else {
            throw ServiceError(
                .invalidConfiguration,
                "Cannot make a directory in \(parent) (\(String(cString: strerror(errno)))); choose another --dir.")
        }
        directory = String(cString: path)
        free(path)
    }

    package func run(seed: UInt64, print: ((String) -> Void)? = nil) throws(ServiceError) -> Outcome {
        let path = "\(seed)"
        mkdir(path, 0o700)
        let (outcome, census) = try play(seed, path, Trace(print: print))
        remove(path)
        let survivors = census.survivors
        // Not `precondition`, whose message a release build drops.
        guard survivors.isEmpty else { fatalError("seed \(seed) is over, and something still holds \(survivors)") }
        return outcome
    }

    /// The simulation is gone when it returns.
    private func play(_ seed: UInt64, _ path: String, _ trace: Trace) throws(ServiceError) -> (Outcome, Census) {
        let simulation = try Simulation(seed: seed, steps: steps, directory: path, canary: canary, trace: trace)
        return (simulation.run(), simulation.world.census)
    }

    /// Removes what the runs have left.
    package func close() { remove(directory) }

    private func remove(_ path: String) {
        // What is left in /dev/shm is memory; but a run whose files cannot be removed has run.
        try? FileManager.default.removeItem(atPath: path)
    }
}
