// SPDX-License-Identifier: Apache-2.0

import DCPCore
import DCPRank
import Testing

@Suite("SequenceOwners: who may change a sequence")
struct SequenceOwnersTests {
    private let epoch = Epoch(7)
    private let sequence = SequenceID(1)

    private func claim(_ number: UInt64, in epoch: UInt64 = 7) -> Claim { Claim(in: Epoch(epoch), number: number) }

    private func refusal(_ owners: SequenceOwners, _ claim: Claim, stored: Claim = .none) -> ServiceError? {
        do throws(ServiceError) {
            try owners.check(claim, on: sequence, stored: stored, in: epoch)
            return nil
        } catch {
            return error
        }
    }

    @Test("only the latest claim is accepted; an older one is refused because another client has taken over")
    func latest() {
        var owners = SequenceOwners()
        owners.claimed(sequence, claim(4), at: 0)
        #expect(refusal(owners, claim(4)) == nil)
        owners.claimed(sequence, claim(6), at: 0)
        #expect(refusal(owners, claim(6)) == nil)
        for old in [claim(4), claim(9, in: 6), .none] {
            let error = refusal(owners, old)
            #expect(error?.code == .claimed && error?.isRetryable == false, "\(old)")
            #expect(error?.message.contains("\(claim(6))") == true && error?.message.contains("\(old)") == true)
        }
        // A claim that comes late or again changes nothing.
        owners.claimed(sequence, claim(4), at: 0)
        #expect(refusal(owners, claim(6)) == nil)
    }

    @Test("a claim is good in its epoch only; of a later owner than itself, the store tells after a restart")
    func epochs() {
        var owners = SequenceOwners()
        owners.claimed(sequence, claim(4, in: 6), at: 0)
        #expect(refusal(owners, claim(4, in: 6))?.code == .staleEpoch)
        #expect(refusal(SequenceOwners(), claim(4, in: 6), stored: claim(4, in: 6))?.code == .staleEpoch)
        #expect(refusal(SequenceOwners(), claim(4, in: 6), stored: claim(5, in: 6))?.code == .claimed)
        // Of this epoch, and not known: not from this coordinator.
        #expect(refusal(SequenceOwners(), claim(1))?.code == .stepAborted)
        #expect(refusal(SequenceOwners(), .none)?.code == .staleEpoch)
    }

    @Test("the holder is the last claimant, and for a fork the holder of its parent")
    func holder() {
        var owners = SequenceOwners()
        #expect(owners.holder(of: sequence).isEmpty)
        owners.claimed(sequence, claim(4), by: "client:alice", at: 0)
        owners.claimed(sequence, claim(3), by: "client:bob", at: 0)
        owners.forked(SequenceID(2), from: sequence, at: 0)
        #expect([sequence, SequenceID(2)].map { owners.holder(of: $0) } == ["client:alice", "client:alice"])
        owners.claimed(sequence, claim(5), by: "client:bob", at: 0)
        #expect(owners.holder(of: sequence) == "client:bob")
        owners.forget(sequence)
        #expect(owners.holder(of: sequence).isEmpty)
    }

    @Test("a client that is gone keeps its claim for a while; then it ends, if it holds something")
    func ends() {
        var owners = SequenceOwners()
        owners.claimed(sequence, claim(1), at: 100)
        owners.use(sequence, over: 5)
        #expect(owners.end(goneFor: 10, at: 10_000) { _ in true }.isEmpty && owners.goneFor(sequence, at: 500) == nil)
        owners.closed(5, at: 1000)
        #expect(owners.goneFor(sequence, at: 1004) == 4)
        #expect(owners.end(goneFor: 10, at: 1009) { _ in true }.isEmpty)
        #expect(owners.end(goneFor: 10, at: 1010) { _ in true } == [sequence])
        let error = refusal(owners, claim(1))
        #expect(error?.code == .stepAborted && error?.isRetryable == true)
        #expect(owners.end(goneFor: 10, at: 5000) { _ in true }.isEmpty, "once")
        owners.claimed(sequence, claim(2), at: 6000)
        #expect(refusal(owners, claim(2)) == nil)
    }

    @Test("what could not be taken back is due again, unless another client has come or the sequence is gone")
    func notEnded() {
        var owners = SequenceOwners()
        owners.claimed(sequence, claim(1), at: 0)
        #expect(owners.end(goneFor: 10, at: 10) { _ in true } == [sequence])
        owners.notEnded(sequence, at: 12)
        #expect(owners.end(goneFor: 10, at: 21) { _ in true }.isEmpty)
        #expect(owners.end(goneFor: 10, at: 22) { _ in true } == [sequence])
        #expect(refusal(owners, claim(1))?.code == .stepAborted)
        owners.claimed(sequence, claim(2), at: 30)
        owners.use(sequence, over: 5)
        owners.notEnded(sequence, at: 31)
        #expect(owners.end(goneFor: 10, at: 100) { _ in true }.isEmpty && refusal(owners, claim(2)) == nil)
        owners.forget(sequence)
        owners.notEnded(sequence, at: 101)
        #expect(owners.end(goneFor: 10, at: 200) { _ in true }.isEmpty)
    }

    @Test("a client that is back in time, or that holds nothing, keeps its claim")
    func stays() {
        var owners = SequenceOwners()
        owners.claimed(sequence, claim(1), at: 0)
        owners.use(sequence, over: 5)
        owners.closed(5, at: 10)
        owners.use(sequence, over: 6)
        #expect(owners.end(goneFor: 10, at: 100) { _ in true }.isEmpty)
        // The older connection ends late.
        owners.closed(5, at: 110)
        #expect(owners.end(goneFor: 10, at: 200) { _ in true }.isEmpty)
        owners.closed(6, at: 200)
        #expect(owners.end(goneFor: 10, at: 300) { _ in false }.isEmpty)
        #expect(refusal(owners, claim(1)) == nil)
    }

    @Test("a claimant that never connected counts as gone from then on")
    func neverCame() {
        var owners = SequenceOwners()
        owners.claimed(sequence, claim(1), at: 50)
        #expect(owners.end(goneFor: 10, at: 60) { _ in true } == [sequence])
        owners.forget(sequence)
        #expect(owners.end(goneFor: 10, at: 100) { _ in true }.isEmpty)
    }
}
