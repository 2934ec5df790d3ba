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

            EXAMPLE
              dcpctl kernels
              DCP_KERNELS=avx2 dcpctl kernels --json
            """)

    @OptionGroup var output: OutputOptions

    func run() async throws {
        try await execute {
            try KernelSelection.check()
            let view = KernelsView(.current)
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

    init(_ selection: KernelSelection) {
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
        if openblasCoreIsForcedOlder {
            lines.append("OPENBLAS_CORETYPE forces an older core than this CPU has; unset it for faster sgemm.")
        }
        return lines.joined(separator: "\n")
    }
}
