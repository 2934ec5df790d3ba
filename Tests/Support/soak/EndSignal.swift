// SPDX-License-Identifier: Apache-2.0

import Synchronization

/// Set once, read by many. Any thread.
final class EndSignal: Sendable {
    private let value = Atomic(false)

    var isSet: Bool { value.load(ordering: .acquiring) }
    func set() { value.store(true, ordering: .releasing) }
}
