// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import DCPConsole
import DCPDaemon

@main
struct Main {
    static func main() async {
        StandardOutput.reserveClosedStreams()
        ArgumentBytes.requireUTF8()
        await CoordinatorCommand.runDaemon()
    }
}
