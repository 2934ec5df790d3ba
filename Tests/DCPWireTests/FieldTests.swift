// SPDX-License-Identifier: Apache-2.0

import DCPCore
import DCPWire
import NIOCore
import Testing

@Suite("Fields: values that cannot be")
struct FieldTests {
    private func patched(_ message: Message, at offset: Int, _ bytes: [UInt8]) -> ServiceError? {
        var raw = RawFrame(message)
        raw.fields.replaceSubrange(offset..<offset + bytes.count, with: bytes)
        return refusal(raw.bytes)
    }

    private func little<Value: FixedWidthInteger>(_ value: Value) -> [UInt8] {
        withUnsafeBytes(of: value.littleEndian) { Array($0) }
    }

    /// Messages with an array, and where its count stands in the fields.
    private var arrays: [(message: Message, offset: Int, count: UInt32)] {
        [
            (
                .request(
                    Commit([
                        SequenceLength(sequence: SequenceID(1), length: 1), .init(sequence: SequenceID(2), length: 2),
                    ])), 0, 2
            ),
            (.request(Many([GetSequenceStatus(SequenceID(1)), GetSequenceStatus(SequenceID(2))])), 0, 2),
            (.victimsRequest([SequenceID(1), SequenceID(2)]), 0, 2), (.victims([SequenceID(1)]), 0, 1),
            (
                .reply(
                    Many.Reply([
                        .success(
                            SequenceStatus(
                                sequence: SequenceID(1), committedLength: 0, layerLengths: [], localTokens: 0))
                    ]), to: Many<GetSequenceStatus>.self), 0, 1
            ),
            (.reply(Many.Reply([.success(Done()), .success(Done())]), to: Many<CloseSequence>.self), 0, 2),
            (.reply([ModelRecord](), to: ListModels.self), 0, 0),
            (.reply(SequenceList(), to: ListSequences.self), 4, 0),
            (
                .heldSequences(
                    HeldSequences([.init(sequence: SequenceID(1), model: ModelID(1), committedLength: 1)], isLast: true)
                ),
                0, 1
            ),
            (.renewLease(LeaseRenewal(stepsInFlight: 0, usedSequences: [SequenceID(1), SequenceID(2)])), 19, 2),
            (.refusals([ServiceError(.storeFull, "")]), 0, 1), (.request(Samples.step()), 25, 2),
            (verified(findings: 2), 84, 2),
        ]
    }

    private func verified(findings: Int, message: String = "") -> Message {
        let status = VerificationStatus(
            run: 1, state: .done, sequence: nil, progress: VerificationProgress(), failure: "", findingCount: findings,
            damageCount: findings, keptCount: findings, firstFinding: 0,
            findings: Array(repeating: StoreFinding(.block, message), count: findings))
        return .reply(status, to: VerificationRequest.self)
    }

    @Test("a verification's answer has at most a page of findings, each as long as a text may be")
    func verificationPages() throws {
        let text = String(repeating: "x", count: 65_535)
        let page = try decode(RawFrame(verified(findings: 128, message: text)).bytes)
        let status = try #require(try page?.reply(to: VerificationRequest.self))
        #expect(status.findings.count == 128 && status.findings[127].message == text)
        let error = refusal(RawFrame(verified(findings: 129)).bytes)
        #expect(error?.code == .protocolViolation && error?.message.contains("129 findings") == true)
    }

    @Test("an absent value has no bytes but zeros, and what is there fits its type")
    func optionals() {
        let request = Message.request(VerificationRequest(start: true))
        #expect(patched(request, at: 1, [0] + little(UInt64(0))) == nil)
        #expect(patched(request, at: 1, [1] + little(UInt64.max)) == nil)
        for bytes in [[0] + little(UInt64(5)), [2] + little(UInt64(0))] {
            let error = patched(request, at: 1, bytes)
            #expect(error?.code == .protocolViolation && error?.message.contains("`sequence`") == true)
        }
        let rows = Message.request(RowsRequest(sequence: SequenceID(1), layer: 0, position: 0, count: 1))
        #expect(patched(rows, at: 20, little(UInt32(1 << 20))) == nil)
        #expect(patched(rows, at: 20, little(UInt32(1 << 20) + 1))?.code == .protocolViolation)
        #expect(patched(rows, at: 12, little(UInt64(1 << 48) + 1))?.code == .protocolViolation)
    }

    @Test("array counts that lie are refused before anything is allocated for them")
    func counts() {
        for (message, offset, count) in arrays {
            #expect(patched(message, at: offset, little(count)) == nil, "the count of \(message.type) is at \(offset)")
            for lie in [count &- 1, count + 1, count + 1000, 0x7FFF_FFFF, UInt32.max] where lie != count {
                #expect(
                    patched(message, at: offset, little(lie))?.code == .protocolViolation,
                    "\(message.type) with a count of \(lie)")
            }
        }
    }

    @Test("a text that is not UTF-8 is refused, by its field")
    func text() {
        let name = Message.request(Many([RemoveModel(name: "ab")]))
        for bytes: [UInt8] in [[0xFF, 0xFE], [0xC3, 0x28], [0xED, 0xA0], [0x80, 0x61]] {
            let error = patched(name, at: 6, bytes)
            #expect(error?.code == .protocolViolation && error?.message.contains("`name`") == true)
            #expect(error?.message.contains("UTF-8") == true)
        }
    }

    @Test("TRAPS 2: every LSE on the wire states its base, and base 2 is refused")
    func logarithmBase() throws {
        let outputs = Samples.bytes(4), lse = Samples.bytes(8)
        let carriers: [(Message, Int)] = [
            (
                .reply(
                    StepResult(tokens: 1, heads: 1, valueDim: 1, outputs: outputs, lse: Samples.bytes(4)),
                    to: StepRequest.self), 9
            ),
            (.partial(PartialSlice(tokens: 1, heads: 1, valueDim: 1, outputs: outputs, lse: lse)), 8),
            (.logSumExp(LogSumExps(tokens: 1, heads: 1, lse: lse)), 6),
        ]
        for (message, offset) in carriers {
            #expect(patched(message, at: offset, [1]) == nil)
            for base: UInt8 in [0, 2, 10, 255] {
                let error = try #require(patched(message, at: offset, [base]))
                #expect(error.code == .protocolViolation && error.message.contains("base \(base)"))
            }
        }
    }

    @Test("a step without entries, with an empty entry, or with too much of either is refused")
    func stepEntries() throws {
        func step(_ entries: [StepRequest.Entry]) -> ServiceError? {
            var step = Samples.step()
            step.entries = entries
            // No heads: the tensors have no bytes, whatever the tokens.
            (step.queryHeads, step.kvHeads) = (0, 0)
            step.tensors = ByteBuffer()
            return refusal(encoded(Samples.frame(.request(step))))
        }
        func entry(_ count: Int) -> StepRequest.Entry { .init(sequence: SequenceID(1), position: 0, count: count) }
        #expect(step([entry(1)]) == nil)
        #expect(step([entry(StepRequest.tokensMax)]) == nil)
        #expect(step([])?.message.contains("0 entries") == true)
        #expect(step([entry(1), entry(0)])?.message.contains("without tokens") == true)
        #expect(step([entry(StepRequest.tokensMax), entry(1)])?.message.contains("1048577 tokens") == true)
        #expect(step([entry(0xFFFF_FFFF)])?.code == .protocolViolation)
        #expect(step(Array(repeating: entry(1), count: StepRequest.entriesMax)) == nil)
        #expect(step(Array(repeating: entry(1), count: StepRequest.entriesMax + 1))?.code == .protocolViolation)
    }

    @Test("tensor sizes whose product passes 64 bits are refused, not computed")
    func tensorSizes() {
        let huge: [UInt8] = [UInt8](repeating: 0xFF, count: 8)
        let slices: [Message] = [
            .reply(
                StepResult(tokens: 1, heads: 0, valueDim: 1, outputs: ByteBuffer(), lse: nil), to: StepRequest.self),
            .query(QuerySlice(tokens: 1, heads: 0, keyDim: 1, dataType: .float32, queries: ByteBuffer())),
            .partial(PartialSlice(tokens: 1, heads: 0, valueDim: 1, outputs: ByteBuffer(), lse: ByteBuffer())),
            .corrected(CorrectedSlice(tokens: 1, heads: 0, valueDim: 1, outputs: ByteBuffer())),
        ]
        for message in slices {
            #expect(patched(message, at: 0, huge)?.code == .protocolViolation, "\(message.type)")
        }
        let rows = Message.logSumExp(LogSumExps(tokens: 1, heads: 0, lse: ByteBuffer()))
        #expect(patched(rows, at: 0, Array(huge.prefix(6)))?.code == .protocolViolation)
    }

    @Test("lengths beyond 2^48 tokens, booleans of 2 and unknown cases are refused")
    func values() {
        let truncate = Message.operation(.truncate(SequenceID(1), length: 5))
        #expect(patched(truncate, at: 9, little(UInt64(1) << 48)) == nil)
        #expect(patched(truncate, at: 9, little(UInt64(1) << 48 + 1))?.message.contains("`length`") == true)
        #expect(patched(truncate, at: 9, little(UInt64.max))?.code == .protocolViolation)
        #expect(patched(truncate, at: 0, [10])?.message.contains("operation 10") == true)
        var unknown = RawFrame(.request(ListModels()))
        unknown.type = 0x01FF
        #expect(refusal(unknown.bytes)?.message.contains("0x1ff") == true)
        unknown.type = 30
        #expect(refusal(unknown.bytes)?.message.contains("type 30") == true)
        let step = Message.request(Samples.step())
        #expect(patched(step, at: 4, [4])?.message.contains("`query mode`") == true)
        #expect(patched(step, at: 5, [2])?.message.contains("`appends`") == true)
        #expect(patched(step, at: 6, [2])?.message.contains("`wants LSE`") == true)
        #expect(patched(step, at: 11, [0])?.message.contains("`query dtype`") == true)
    }

    @Test("a hello is from a rank exactly when it has a rank's index")
    func helloRank() throws {
        let cluster = try ClusterShape(ranks: 1, headGroups: 1, interleave: 1, blockTokens: 16, exchange: .allToAll)
        let rank = Message.hello(Hello(role: .rank, rank: RankIndex(3), fingerprint: LayoutFingerprint(cluster)))
        #expect(patched(rank, at: 1, [0xFF, 0xFF])?.code == .protocolViolation)
        #expect(patched(rank, at: 0, [1])?.code == .protocolViolation)
        #expect(patched(rank, at: 0, [4])?.message.contains("`role`") == true)
    }

    @Test("a topology lists each rank once, in order; a model and a cluster in it must be possible")
    func shapes() throws {
        let cluster = try ClusterShape(ranks: 2, headGroups: 1, interleave: 1, blockTokens: 16, exchange: .allToAll)
        func topology(_ ranks: [UInt16]) -> ServiceError? {
            refusal(
                encoded(
                    Samples.frame(
                        .topology(
                            Topology(
                                epoch: Epoch(1), phase: .ready, reason: "", shape: cluster, leaseMilliseconds: 1,
                                members: ranks.map { .init(rank: RankIndex($0), endpoint: .unix(path: "/x")) },
                                cluster: ClusterID(1))))))
        }
        #expect(topology([0, 1]) == nil)
        #expect(topology([1, 0])?.code == .protocolViolation)
        #expect(topology([0, 0])?.code == .protocolViolation)
        // In a topology with an empty reason the cluster's shape begins at 11.
        let whole = Message.topology(
            Topology(
                epoch: Epoch(1), phase: .ready, reason: "", shape: cluster, leaseMilliseconds: 1,
                members: [.init(rank: RankIndex(0), endpoint: nil), .init(rank: RankIndex(1), endpoint: nil)],
                cluster: ClusterID(1)))
        #expect(patched(whole, at: 15, little(UInt32(3)))?.message.contains("interleave 3") == true)
        #expect(patched(whole, at: 19, little(UInt32.max))?.code == .invalidConfiguration)
    }

    @Test("TRAPS 23: a hello with another layout is refused with both named; a client's has none")
    func fingerprints() throws {
        func layout(_ interleave: Int) throws -> LayoutFingerprint {
            LayoutFingerprint(
                try ClusterShape(
                    ranks: 4, headGroups: 1, interleave: interleave, blockTokens: 64, exchange: .allToAll))
        }
        let hello = Hello(role: .rank, rank: RankIndex(1), fingerprint: try layout(4))
        try hello.check(against: try layout(4))
        try Hello(role: .client, fingerprint: nil).check(against: try layout(4))
        let error = try #require(throws: ServiceError.self) { try hello.check(against: try layout(8)) }
        #expect(error.code == .incompatible)
        #expect(error.message.contains("I=4 ") && error.message.contains("I=8 ") && error.message.contains("rank 1"))
    }
}
