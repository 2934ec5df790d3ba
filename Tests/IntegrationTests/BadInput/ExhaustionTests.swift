// SPDX-License-Identifier: Apache-2.0

import DCPCore
import DCPLocalCluster
import DCPTestKit
import DCPWire
import Foundation
import Glibc
import Testing

extension Integration {
    /// Connections that take what there is of a daemon: descriptors, memory of frames, places at the HTTP endpoint.
    @Suite("exhaustion")
    struct ExhaustionTests {
        private static let rank = DaemonRole.rank(RankIndex(0))

        @Test(
            "with few descriptors connections are refused with the reason before they run out, and probes are answered")
        func descriptors() async throws {
            let directory = TemporaryDirectory()
            let programs = directory.path("bin")
            try FileManager.default.createDirectory(atPath: programs, withIntermediateDirectories: false)
            for name in ["dcp-rank", "dcp-coordinator"] {
                let script = "#!/bin/sh\nulimit -n 80\nexec \(Binaries.directory)/\(name) \"$@\"\n"
                try Data(script.utf8).write(to: URL(filePath: "\(programs)/\(name)"))
                chmod("\(programs)/\(name)", 0o755)
            }
            var options = ClusterSetup(ranks: 1).options
            options.binDirectory = programs
            let cluster = try TestCluster(
                directory: directory,
                local: LocalCluster.start(in: LocalClusterDirectory(path: directory.path("c")), options: options))
            do {
                try await cluster.waitUntilReady()
                let endpoint = cluster.local.rankEndpoints[0]
                let refusals = try await onOwnThread { () -> [ServiceError] in
                    var (connections, refusals): ([RawConnection], [ServiceError]) = ([], [])
                    for _ in 0..<100 {
                        let connection = try RawConnection(endpoint)
                        let hello = Message.hello(Hello(role: .client, fingerprint: nil))
                        _ = connection.send(
                            RawConnection.bytes(
                                Frame(epoch: .none, tag: Tag(client: ClientID(0), number: 0), message: hello)))
                        if case .failure(let error)? = try connection.receive()?.message { refusals.append(error) }
                        connections.append(connection)
                    }
                    return refusals
                }
                #expect(refusals.count > 80 && refusals.allSatisfy { $0.code == .overloaded })
                let health = try await cluster.get("/healthz", of: Self.rank)
                #expect(health.status == 200 || health.status == 503)
                let metrics = try await cluster.get("/metrics", of: Self.rank)
                let count = metrics.sample(#"dcp_connections_refused_total{rank="0",cause="too-many"}"#)
                #expect(count == Double(refusals.count))
                #expect(try cluster.log(of: Self.rank).contains("too-many"))
            } catch {
                await cluster.local.stop(deadline: .seconds(30))
                throw error
            }
            await cluster.local.stop(deadline: .seconds(30))
        }

        @Test("frames that begin and do not end are closed at frame-timeout and counted; others are served")
        func frames() async throws {
            let trace = Trace(try shape(4, 2, 16, 16, .bfloat16), tokens: 20, salt: 820)
            try await ClusterSetup(ranks: 1, rankArguments: ["--frame-timeout", "0.2"]).run { cluster in
                let endpoint = cluster.local.rankEndpoints[0]
                try await onOwnThread {
                    let message = Message.request(Many([GetSequenceStatus(SequenceID(1))]))
                    let frame = RawConnection.bytes(
                        Frame(epoch: Epoch(1), tag: Tag(client: ClientID(9), number: 1), message: message))
                    let connections = try (0..<16).map { _ in try RawConnection.client(endpoint) }
                    for connection in connections { connection.send(Array(frame.dropLast())) }
                    for connection in connections {
                        guard case .failure(let error)? = try connection.receive()?.message else {
                            Issue.record("the connection was not refused")
                            continue
                        }
                        #expect(error.code == .deadlineExceeded)
                        #expect(try connection.receive() == nil)
                    }
                }
                let metrics = try await cluster.get("/metrics", of: Self.rank)
                #expect(
                    metrics.sample(#"dcp_connections_refused_total{rank="0",cause="unfinished-frame"}"#) == 16)
                try await cluster.withClient { client in
                    let sequence = try await client.open(trace, "s")
                    trace.check(Answer(try await client.step(trace, 0..<20, on: sequence)), 0..<20, "among half frames")
                }
            }
        }

        @Test("more idle HTTP connections than there are places: the idlest give theirs to a probe")
        func idleProbes() async throws {
            try await ClusterSetup(ranks: 1).run { cluster in
                let path = String(cluster.local.directory.http(of: Self.rank).dropFirst("unix:".count))
                let idle = try (0..<40).map { _ in try HTTP.connected(to: path) }
                defer { for descriptor in idle { close(descriptor) } }
                #expect(try await cluster.get("/readyz", of: Self.rank).status == 200)
                // The first to come was idle for longest.
                var byte: UInt8 = 0
                #expect(read(idle[0], &byte, 1) == 0)
            }
        }
    }
}
