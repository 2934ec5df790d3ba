import Foundation
import Testing

extension Integration {
    @Suite("kernels")
    struct KernelTests {
        @Test("dcpctl kernels: DCP_KERNELS forces each set there is, and another value is refused with those")
        func forced() async throws {
            let free = try await CommandLineTool(environment: ["DCP_KERNELS": ""]).run("kernels", "--json").object()
            let available = try #require(free["available"] as? [String])
            #expect(available.first == "scalar")
            #expect(free["instruction_set"] as? String == available.last)
            for name in available {
                let tool = CommandLineTool(environment: ["DCP_KERNELS": name])
                #expect(try await tool.run("kernels", "--json").object()["instruction_set"] as? String == name)
                #expect(try await tool.run("kernels").data.hasPrefix("Kernels:  \(name) (available: scalar"))
            }
            try await CommandLineTool(environment: ["DCP_KERNELS": "neon"]).fails(
                64, saying: ["`neon`", "DCP_KERNELS", available.joined(separator: ", ")], ["kernels"])
        }
    }
}
