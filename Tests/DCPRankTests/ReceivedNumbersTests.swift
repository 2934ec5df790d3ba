// SPDX-License-Identifier: Apache-2.0

import DCPAttention
import DCPCore
import DCPRank
import DCPTestKit
import Testing

@Suite("numbers of other ranks")
struct ReceivedNumbersTests {
    private func partial() -> AttentionStates {
        var generator = SeededGenerator.ofRun(salt: 31)
        return AttentionStates(
            valueDim: 6, outputs: generator.floats(5 * 6, limit: 4),
            lse: generator.floats(5, limit: 9).map { Double($0) })
    }

    private func error(_ body: () throws(ServiceError) -> Void) -> ServiceError? {
        do throws(ServiceError) { try body() } catch { return error }
        return nil
    }

    @Test("an output that is not finite at a finite LSE is refused, with the rank, the row and the output")
    func outputs() {
        for (value, name) in [(Float.nan, "nan"), (.infinity, "inf"), (-.infinity, "-inf")] {
            for index in [0, 13, 29] {
                var states = partial()
                states.outputs[index] = value
                let found = error { () throws(ServiceError) in try ReceivedNumbers.check(states, from: 3) }
                #expect(found?.code == .internal)
                #expect(found?.message.contains("Context rank 3 sent the output \(name)") == true, "\(found as Any)")
                #expect(found?.message.contains("row \(index / 6)") == true)
                // The same numbers in a row without tokens are not used.
                states.lse[index / 6] = -.infinity
                #expect(error { () throws(ServiceError) in try ReceivedNumbers.check(states, from: 3) } == nil)
            }
        }
        var states = partial()
        states.outputs[7] = .greatestFiniteMagnitude
        #expect(error { () throws(ServiceError) in try ReceivedNumbers.check(states, from: 3) } == nil)
    }

    @Test("an LSE that is NaN or plus infinity is refused, alone and beside outputs")
    func logSumExps() {
        for value in [Double.nan, .infinity] {
            var states = partial()
            states.lse[4] = value
            for found in [
                error { () throws(ServiceError) in try ReceivedNumbers.check(states, from: 2) },
                error { () throws(ServiceError) in try ReceivedNumbers.check(lse: states.lse, from: 2) },
            ] {
                #expect(found?.code == .internal)
                #expect(found?.message.contains("Context rank 2 sent the log-sum-exp") == true, "\(found as Any)")
                #expect(found?.message.contains("row 4") == true)
            }
        }
    }

    @Test("a weighed output that is not finite is refused")
    func corrected() {
        var outputs = partial().outputs
        #expect(error { () throws(ServiceError) in try ReceivedNumbers.check(corrected: outputs[...], from: 1) } == nil)
        outputs[29] = .nan
        let found = error { () throws(ServiceError) in try ReceivedNumbers.check(corrected: outputs[...], from: 1) }
        #expect(found?.code == .internal && found?.message.contains("Context rank 1") == true)
    }
}
