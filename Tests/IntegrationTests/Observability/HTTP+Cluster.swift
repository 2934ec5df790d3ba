// SPDX-License-Identifier: Apache-2.0

import DCPCore
import DCPLocalCluster
import DCPTestKit
import Foundation
import Testing

extension HTTP.Answer {
    func json() throws -> [String: Any] {
        try #require(try JSONSerialization.jsonObject(with: Data(body.utf8)) as? [String: Any])
    }

    /// Of `/healthz`. A daemon that waits for its first canary says as much as its readiness.
    var isHealthyByCanary: Bool { status == 200 && body.contains(#""age_seconds":"#) }
}

extension TestCluster {
    func get(_ path: String, of role: DaemonRole, method: String = "GET") async throws -> HTTP.Answer {
        let socket = String(local.directory.http(of: role).dropFirst("unix:".count))
        return try await onOwnThread { try HTTP.get(path, at: socket, method: method) }
    }

    /// Asks until an answer is as wanted, which some event brings about; each answer is a question to a live daemon.
    func get(
        _ path: String, of role: DaemonRole, until isWanted: (HTTP.Answer) -> Bool
    ) async throws -> HTTP.Answer {
        let deadline = ContinuousClock.now + .seconds(120)
        while true {
            let answer = try await get(path, of: role)
            if isWanted(answer) { return answer }
            try #require(ContinuousClock.now < deadline, "\(path) of \(role): \(answer.status) \(answer.body)")
            try await Task.sleep(for: .milliseconds(50))
        }
    }
}
