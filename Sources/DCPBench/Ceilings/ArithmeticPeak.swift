// SPDX-License-Identifier: Apache-2.0

internal import CBenchmarkKernels
internal import DCPAttention
internal import Synchronization

/// The peak of all threads together: multiply-adds on registers, and OpenBLAS's sgemm.
final class ArithmeticPeak: Sendable {
    private let team: Team
    private let matrices: [SgemmCeiling]
    /// About 5 ms at 5 GHz.
    private let iterations: UInt64 = 2_000_000

    init(_ team: Team) {
        self.team = team
        matrices = (0..<team.threads).map { _ in SgemmCeiling() }
    }

    static var multiplyAddDetail: String { String(cString: dcp_multiply_add_width()) }
    static var hasBFloat16: Bool { dcp_multiply_add_bf16(1) > 0 }
    var sgemmDetail: String { "\(matrices[0].size)^3, OpenBLAS \(KernelSelection.current.openBLASCore)" }

    /// Each returns operations per second and thread.
    func multiplyAdd() -> Double { best { [iterations] _ in dcp_multiply_add_f32(iterations) } }
    func multiplyAddBFloat16() -> Double { best { [iterations] _ in dcp_multiply_add_bf16(iterations) } }
    func sgemm() -> Double { rate { [matrices] in matrices[$0].multiply() } }

    /// The best of a few bursts, since a peak is what nothing disturbs.
    private func best(_ body: @escaping @Sendable (Int) -> UInt64) -> Double {
        (0..<5).reduce(0) { best, _ in max(best, rate(body)) }
    }

    private func rate(_ body: @escaping @Sendable (Int) -> UInt64) -> Double {
        let total = OperationCount()
        let seconds = Stopwatch.seconds { team.onEach { total.add(body($0)) } }
        return Double(total.value) / seconds / Double(team.threads)
    }
}

private final class OperationCount: Sendable {
    private let count = Atomic<UInt64>(0)

    func add(_ operations: UInt64) { count.add(operations, ordering: .relaxed) }
    var value: UInt64 { count.load(ordering: .relaxed) }
}
