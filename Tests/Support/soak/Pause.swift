// SPDX-License-Identifier: Apache-2.0

/// Holds all clients between two operations while the cluster is given what they have to be told of.
actor Pause {
    private var clients: Int
    private var isAsked = false
    private var held: [CheckedContinuation<Void, Never>] = []
    private var asker: CheckedContinuation<Void, Never>?

    init(clients: Int) { self.clients = clients }

    /// A client is between two operations.
    func pass() async {
        guard isAsked else { return }
        await withCheckedContinuation { continuation in
            held.append(continuation)
            tellIfAllHeld()
        }
    }

    /// A client works no more.
    func leave() {
        clients -= 1
        tellIfAllHeld()
    }

    /// Returns when no client has an operation under way.
    func hold() async {
        isAsked = true
        await withCheckedContinuation { continuation in
            asker = continuation
            tellIfAllHeld()
        }
    }

    func release() {
        isAsked = false
        held.forEach { $0.resume() }
        held = []
    }

    private func tellIfAllHeld() {
        guard held.count >= clients, let asker else { return }
        self.asker = nil
        asker.resume()
    }
}
