// SPDX-License-Identifier: Apache-2.0

internal import DCPHost

/// The kind of this machine's processor, from Linux: equal for machines with the same cache behaviour.
package enum ProcessorIdentity {
    /// Not of /proc/cpuinfo, which a service with `ProcSubset=pid` does not see.
    package static let current = of("/sys/devices/system/cpu")

    /// - Parameter directory: as /sys/devices/system/cpu.
    /// - Returns: `cpu:type:x86,ven0002fam0019mod0001 32K 32K 512K 32768K`; empty when nothing is told.
    package static func of(_ directory: String) -> String {
        // Its vendor, family and model on x86-64; what else it can do follows, and depends on the kernel.
        let kind = HostInspection.line(of: directory + "/modalias").split(separator: ":feature", maxSplits: 1).first
        let cpu = directory + "/cpu0"
        let others = [cpu + "/regs/identification/midr_el1"] + (0..<8).map { cpu + "/cache/index\($0)/size" }
        return ([kind.map(String.init) ?? ""] + others.map(HostInspection.line(of:))).filter { !$0.isEmpty }.joined(
            separator: " ")
    }
}
