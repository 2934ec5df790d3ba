// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import DCPClient
import DCPConsole
import DCPCore
import DCPWire
import Glibc
import UnixSignals

struct Top: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Watch the ranks: throughput, latencies, stores and the busiest sequences.",
        discussion: """
            Rates and latencies cover the time since the previous refresh; the first refresh has none. A step is one \
            layer; tokens are counted once. Press q or Ctrl-C to quit. If the output is not a terminal, each refresh \
            is printed below the previous one.

            EXAMPLE
              dcpctl top
              dcpctl top --once
              dcpctl top --json --interval 5s | jq -c '.ranks[] | [.rank, .tokens_per_second]'
            """)

    @Option(help: ArgumentHelp("How often to refresh: 500ms, 2s.", valueName: "duration"))
    var interval = "1s"

    @Flag(help: "Print one refresh, after one interval, and exit.")
    var once = false

    @Option(
        parsing: .unconditional, help: ArgumentHelp("How many sequences to show, the busiest first.", valueName: "n"))
    var sequences = 10

    @OptionGroup var client: ClientOptions

    static let intervalMin = Duration.milliseconds(100)

    func validate() throws {
        let duration: Duration
        do throws(ServiceError) { duration = try DurationFormat.parse(interval) } catch {
            throw ValidationError("--interval: \(error.message)")
        }
        guard duration >= Self.intervalMin else {
            throw ValidationError("--interval: \(interval) is below the minimum of 100ms.")
        }
        guard (0...1000).contains(sequences) else {
            throw ValidationError("--sequences: \(sequences) is outside 0...1000.")
        }
    }

    func run() async throws {
        try await dcpctl.execute {
            let screen = once || client.output.json ? nil : LiveScreen()
            let quit = await quitting(screen)
            defer { quit.cancel() }
            do {
                try await client.withCluster { try await watch($0, on: screen) }
            } catch {
                // Before anything is said about it: the message belongs on the terminal that stays.
                screen?.close()
                throw error
            }
            screen?.close()
        }
    }

    /// Ends the program on q, or on a signal, also while a rank is being waited for: nothing is left behind but the screen.
    private func quitting(_ screen: LiveScreen?) async -> Task<Void, Never> {
        let signals = await UnixSignalsSequence(trapping: .sigint, .sigterm)
        return Task {
            await withTaskGroup(of: Int32?.self) { group in
                group.addTask {
                    for await signal in signals { return screen == nil ? 128 + signal.rawValue : 0 }
                    return nil
                }
                if let screen {
                    group.addTask {
                        for await key in screen.keys where key == "q" || key == "Q" { return 0 }
                        return nil
                    }
                }
                for await status in group {
                    guard let status else { continue }
                    screen?.close()
                    Glibc.exit(status)
                }
            }
        }
    }

    private func watch(_ cluster: Cluster, on screen: LiveScreen?) async throws {
        let period = try DurationFormat.parse(interval)
        var before = try await TopSample.take(cluster)
        screen?.show(TopView(before, since: nil, sequences: sequences).text)
        while true {
            try await Task.sleep(for: period)
            let now = try await TopSample.take(cluster)
            let view = TopView(now, since: before, sequences: sequences)
            if let screen { screen.show(view.text) } else { try print(view) }
            if once { return }
            before = now
        }
    }

    private func print(_ view: TopView) throws {
        if client.output.json {
            // One object a line, so that a reader takes one refresh at a time.
            try StandardOutput.write(try JSONOutput.line(view) + "\n")
        } else {
            try StandardOutput.write(view.text + (once ? "\n" : "\n\n"))
        }
    }
}
