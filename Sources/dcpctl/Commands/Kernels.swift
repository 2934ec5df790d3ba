import ArgumentParser
import DCPAttention
import DCPConsole
import DCPCore

struct Kernels: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Show which kernels this machine computes with.",
        discussion: """
            Decode runs on the widest instruction set that CPU and system support; DCP_KERNELS=scalar, avx2, \
            avx512 or neon forces another, here and in the daemons. Prefill runs on OpenBLAS, which chooses by the CPU; \
            OPENBLAS_CORETYPE forces it.

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
    var decode: String
    var openblasCore: String
    var openblasCoreIsForcedOlder: Bool

    init(_ selection: KernelSelection) {
        available = DecodeKernels.available.map(\.name)
        decode = selection.decode
        openblasCore = selection.openBLASCore
        openblasCoreIsForcedOlder = selection.openBLASCoreIsForcedOlder
    }

    var text: String {
        var lines = [
            "Decode:  \(decode) (available: \(available.joined(separator: ", ")))",
            "Prefill: sgemm of OpenBLAS for \(openblasCore)",
        ]
        if openblasCoreIsForcedOlder {
            lines.append("OPENBLAS_CORETYPE forces an older core than this CPU has; unset it for faster prefill.")
        }
        return lines.joined(separator: "\n")
    }
}
