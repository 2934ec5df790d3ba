import ArgumentParser
import DCPClient
import DCPConsole
import DCPCore

struct Health: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Send a real step through all ranks and check the answer.",
        discussion: """
            Exits 0 only when a canary's prefill and decode went through every rank and came back right.

            EXAMPLE
              dcpctl health --timeout 2s || systemctl status 'dcp-rank@*'
            """)

    @OptionGroup var client: ClientOptions

    func run() async throws {
        try await client.execute { cluster in
            let report = try await cluster.health()
            let view = HealthView(
                healthy: true, epoch: report.epoch.value, ranks: report.ranks,
                outputErrorMax: report.outputErrorMax,
                prefillStepMicroseconds: report.prefillStep / .microseconds(1),
                decodeStepMicroseconds: report.decodeStep / .microseconds(1))
            try client.output.print(view) {
                "Healthy: a canary went through \(report.ranks) ranks in epoch \(report.epoch.value) (largest error "
                    + "\(report.outputErrorMax), prefill step \(DurationFormat.latency(report.prefillStep)), decode "
                    + "step \(DurationFormat.latency(report.decodeStep)))."
            }
        }
    }
}

struct HealthView: Encodable {
    var healthy: Bool
    var epoch: UInt64
    var ranks: Int
    var outputErrorMax: Float
    var prefillStepMicroseconds: Double
    var decodeStepMicroseconds: Double
}
