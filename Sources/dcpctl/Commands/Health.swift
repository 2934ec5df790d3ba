// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import DCPClient
import DCPConsole
import DCPCore

struct Health: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Send a real step through all ranks and check the answer.",
        discussion: """
            There are three results. Healthy (exit status 0): a canary's prefill and decode went through every rank \
            with correct answers. Refusing (75): the same, but the cluster refuses new tokens of other clients, for \
            example because disks are full. Otherwise the command fails with the error's status.

            EXAMPLE
              dcpctl health --timeout 2s || systemctl status 'dcp-rank@*'
              systemctl restart dcp-rank@2 && dcpctl health --wait 1m
            """)

    @Option(help: ArgumentHelp("How long to wait for the cluster to be ready: 30s, 5m.", valueName: "duration"))
    var wait: String = "0s"

    @OptionGroup var client: ClientOptions

    func run() async throws {
        try await client.execute { cluster in
            _ = try await cluster.readyTopology(wait: DurationFormat.parse(wait))
            let report = try await cluster.health()
            let view = HealthView(
                state: report.refusals.isEmpty ? .healthy : .refusing, refusals: report.refusals,
                epoch: report.epoch.value, ranks: report.ranks,
                outputErrorMax: report.outputErrorMax,
                prefillStepMicroseconds: report.prefillStep / .microseconds(1),
                decodeStepMicroseconds: report.decodeStep / .microseconds(1))
            try client.output.print(view) {
                (report.refusals.isEmpty ? "Healthy" : "Serving, but new tokens are refused")
                    + ": a canary went through \(report.ranks) ranks in epoch \(report.epoch.value) (largest error "
                    + "\(report.outputErrorMax), prefill step \(DurationFormat.latency(report.prefillStep)), decode "
                    + "step \(DurationFormat.latency(report.decodeStep)))."
                    + report.refusals.map { "\nNo new tokens: \($0)" }.joined()
            }
            guard report.refusals.isEmpty else { throw ExitCode(ExitStatus.retryLater.rawValue) }
        }
    }
}

struct HealthView: Encodable {
    enum State: String, Encodable {
        case healthy
        case refusing
    }

    var state: State
    var refusals: [String]
    var epoch: UInt64
    var ranks: Int
    var outputErrorMax: Float
    var prefillStepMicroseconds: Double
    var decodeStepMicroseconds: Double
}
