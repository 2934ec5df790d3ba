// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import DCPAttention
import DCPConsole
import DCPCore

struct Kernels: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Show the kernels that this machine uses.",
        discussion: """
            Attention uses the fastest instruction set that the CPU and the system support, listed last; DCP_KERNELS \
            forces another, here and in the daemons. CPUs whose bf16 instructions are slow use Float32 arithmetic. \
            With scalar kernels prefill runs on OpenBLAS, which selects its core by the CPU; OPENBLAS_CORETYPE \
            overrides it.

            Kernels prefetch keys and values into the first-level or the second-level cache, or leave prefetching to \
            the hardware; which is fastest depends on the processor. This command runs them for each cache format, \
            about a second in all, and shows the read rate of each way. A rank does the same at its first start on a \
            machine, for at most 0.3 s at each start until all is measured, and stores the result as kernels.json in its \
            store's directory. DCP_KERNELS_AHEAD=first, second or none forces a way; second:48 \
            prefetches 48 KiB ahead. Answers are the same to the bit with any.

            EXAMPLE
              dcpctl kernels
              DCP_KERNELS=avx2 dcpctl kernels --json
            """)

    @OptionGroup var output: OutputOptions

    func run() async throws {
        try await execute {
            try KernelSelection.check()
            let forced = try Prefetch.forced()
            let trials = try forced == nil ? PrefetchTrials.runAll() : PrefetchTrials()
            let view = KernelsView(.current, forced: forced, trials)
            try output.print(view) { view.text }
        }
    }
}

struct KernelsView: Encodable {
    var available: [String]
    var instructionSet: String
    var prefillUsesSgemm: Bool
    var openblasCore: String
    var openblasCoreIsForcedOlder: Bool
    /// The value of `DCP_KERNELS_AHEAD`.
    var forcedPrefetch: String?
    /// Empty when it is forced, and for kernels that do not prefetch.
    var prefetch: [PrefetchTrials.Trial]

    init(_ selection: KernelSelection, forced: Prefetch?, _ prefetch: PrefetchTrials) {
        forcedPrefetch = forced.map { "\($0)" }
        self.prefetch = prefetch.trials
        available = AttentionKernels.available.map(\.name)
        instructionSet = selection.instructionSet
        prefillUsesSgemm = selection.prefillUsesSgemm
        openblasCore = selection.openBLASCore
        openblasCoreIsForcedOlder = selection.openBLASCoreIsForcedOlder
    }

    var text: String {
        var lines = [
            "Kernels:  \(instructionSet) (available: \(available.joined(separator: ", ")))",
            "OpenBLAS: \(openblasCore), \(prefillUsesSgemm ? "whose sgemm computes prefill" : "not used by these kernels")",
        ]
        if let forcedPrefetch {
            lines.append("Prefetch: \(forcedPrefetch), by \(Prefetch.variable)")
        } else if prefetch.isEmpty {
            lines.append("Prefetch: not by these kernels")
        }
        for (index, trial) in prefetch.enumerated() {
            lines.append("\(index == 0 ? "Prefetch:" : "         ") \(trial.name): \(trial.figures)")
        }
        if openblasCoreIsForcedOlder {
            lines.append("OPENBLAS_CORETYPE forces an older core than this CPU; unset it for faster sgemm.")
        }
        return lines.joined(separator: "\n")
    }
}
