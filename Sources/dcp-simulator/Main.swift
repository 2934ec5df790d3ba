// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import DCPConsole
import DCPWire
import Glibc

@main
struct Main {
    static func main() {
        // A reader of our output that goes away (`dcp-simulator replay ... | head`) ends us quietly.
        signal(SIGPIPE, SIG_DFL)
        StandardOutput.reserveClosedStreams()
        // Kernels that are the same on every machine, unless others are requested.
        setenv("DCP_KERNELS", "scalar", 0)
        DcpSimulator.main()
    }
}

struct DcpSimulator: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "dcp-simulator",
        abstract:
            "Runs whole clusters in one thread with faults drawn from a seed, and checks their invariants.",
        discussion: """
            A seed determines a cluster, its clients and the faults: lost and late packets, partitions, broken \
            connections, ranks that are killed, stopped, paused or slow, power failures and bit flips. Ranks and \
            coordinator run the daemons' code with real stores; the simulator supplies clock, network, threads and \
            randomness. The same seed and steps give the same history, bit for bit.

            EXAMPLE
              dcp-simulator run --seeds 1000
              dcp-simulator run --seed 42 --json
              dcp-simulator replay --seed 42 | less
              dcp-simulator run --seeds 200 --canary commit

            EXIT STATUS
              0   every rule was kept
              64  the command line is wrong
              70  a rule was broken: a bug
            """,
        version: Release.current,
        subcommands: [Run.self, Replay.self])
}
