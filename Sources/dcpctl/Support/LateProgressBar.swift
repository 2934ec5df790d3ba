// SPDX-License-Identifier: Apache-2.0

import DCPConsole
import Synchronization

/// A progress bar whose total is known only when the work has begun, and may still grow.
final class LateProgressBar: Sendable {
    private let label: String
    private let unit: String
    private let start = ContinuousClock.now
    private let state = Mutex<(bar: ProgressBar?, total: Int)>((nil, 0))

    init(_ label: String, unit: String = "tokens") {
        self.label = label
        self.unit = unit
    }

    func update(done: Int, of total: Int) {
        state.withLock { state in
            if total > state.total {
                state = (ProgressBar(label: label, total: total, unit: unit, start: start), total)
            }
            state.bar?.update(done: done)
        }
    }

    func finish() { state.withLock { $0.bar?.finish() } }
}
