// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import DCPClient
import DCPConsole
import DCPWire
import Glibc

@main
struct Main {
    static func main() async {
        // A reader of our output that goes away (`dcp-bench ... | head`) ends us quietly.
        signal(SIGPIPE, SIG_DFL)
        StandardOutput.reserveClosedStreams()
        ProcessMemory.keepFreed()
        await DcpBench.main()
    }
}

struct DcpBench: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "dcp-bench",
        abstract: "Measures the parts of DCP, each figure beside its ceiling from the same run.",
        discussion: """
            A ceiling is the best that the machine can do: a streaming read of the same pages, multiply-adds on \
            registers, OpenBLAS's sgemm, memcpy, or a ping-pong of the same bytes. Figures are medians of many runs, \
            interleaved with the runs of their ceilings; results are compared with attention in float64. Stores are \
            created in a temporary directory below --dir and removed at the end.

            EXAMPLE
              dcp-bench kernels decode --shape llama-8b --context 32k,128k --threads 1,2
              dcp-bench kernels prefill --count 512 --context 32k --plot prefill.svg
              dcp-bench cache append --durability always
              dcp-bench step --ranks 2 --context 128k --json
              dcp-bench transfer --ranks 2,4
              dcp-bench forks --ranks 2
              dcp-bench join --sequences 100k
              dcp-bench directory --sequences 1k,100k
              dcp-bench all

            EXIT STATUS
              0   done
              64  the command line is wrong
              65  a shape or a request is wrong
              69  the cluster of `step`, `transfer`, `forks`, `join`, `directory` or `cache open` does not
                  serve
              70  a bug
              75  temporary failure: the same command may succeed later
            """,
        version: Release.current,
        subcommands: [
            KernelCommands.self, CacheCommands.self, StepCommand.self, TransferCommand.self, ForksCommand.self,
            JoinCommand.self, DirectoryCommand.self, AllCommand.self,
        ])
}
