import ArgumentParser
import DCPAttention
import DCPConsole
import DCPCore

struct Kernels: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Show which kernels this machine computes with.",
        discussion: """
            Attention runs on the widest instruction set that CPU and system support; DCP_KERNELS=scalar, avx2, avx512, \
            avx512bf16 or neon forces another, here and in the daemons. Beside scalar kernels prefill runs on OpenBLAS, \
            which chooses by the CPU; OPENBLAS_CORETYPE forces it.

            Kernels prefetch keys and values into the first-level or the second-level cache, or leave that to the \
            hardware: which is fastest differs between processors. This command runs them for 0.5 s and shows what each \
            way reads, as a rank does at its first start on a machine; it keeps what it found in kernels.json in its \
            store's directory. DCP_KERNELS_AHEAD=first, second or none forces one; second:48 does so 48 KiB before the \
            use. Answers have the same bits with any.

            EXAMPLE
              dcpctl kernels
              DCP_KERNELS=avx2 dcpctl kernels --json
            """)

    @OptionGroup var output: OutputOptions

    func run() async throws {
        try await execute {
            try KernelSelection.check()
            let forced = try Prefetch.forced()
            let trials = try forced == nil ? PrefetchTrials.run() : PrefetchTrials()
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
    /// What `DCP_KERNELS_AHEAD` says.
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
            lines.append("OPENBLAS_CORETYPE forces an older core than this CPU has; unset it for faster sgemm.")
        }
        return lines.joined(separator: "\n")
    }
}
