// SPDX-License-Identifier: Apache-2.0

import DCPCore
import DCPWire
import NIOCore
import Testing

@Suite("Frames at their bounds")
struct BoundaryTests {
    @Test("before the hello every type but a greeting is refused from its header alone, whatever it announces")
    func beforeHello() throws {
        for type in Catalog.types {
            for (fields, payload) in [(0, 0), (4096, 0), (UInt32.max, UInt32.max)] as [(UInt32, UInt32)] {
                var raw = RawFrame(type: type, fields: [])
                raw.fieldsByteCount = fields
                raw.payloadByteCount = payload
                let error = refusal(Array(raw.bytes.prefix(64)), limits: .beforeHello)
                if type.rawValue > 3 {
                    #expect(error?.code == .protocolViolation)
                    #expect(
                        error?.message.contains("before the hello") == true, "\(type): \(String(describing: error))")
                } else {
                    // Without fields the frame is whole, and its fields are too short.
                    #expect((error == nil) == (fields == 4096), "\(type)")
                }
            }
        }
    }

    @Test("the largest tensor sizes that fields can state are refused, before and after the hello, and trap nowhere")
    func hugeTensors() throws {
        let (tokens, most) = (1 << 20, 0xFFFF)
        let none = ByteBuffer()
        var step = Samples.step()
        (step.queryHeads, step.kvHeads, step.keyDim, step.valueDim) = (most, most, most, most)
        step.tensors = none
        var counted = step
        step.entries = [.init(sequence: SequenceID(1), position: 0, count: tokens)]
        step.keyValueTokens = tokens
        // A frame like others; who takes it compares it with its payload first.
        #expect(refusal(RawFrame(.request(step)).bytes) == nil)
        #expect(throws: ServiceError.self) { try step.checkTensors() }
        counted.entries = (0..<4096).map { .init(sequence: SequenceID($0), position: 1 << 48, count: Int(UInt32.max)) }
        let messages: [Message] = [
            .request(counted),
            .reply(
                StepResult(tokens: tokens, heads: most, valueDim: most, outputs: none, lse: none), to: StepRequest.self),
            .query(QuerySlice(tokens: tokens, heads: most, keyDim: most, dataType: .float32, queries: none)),
            .partial(PartialSlice(tokens: tokens, heads: most, valueDim: most, outputs: none, lse: none)),
            .reply(
                RowsReply(
                    generation: 0, tokens: tokens, dataType: .float32, kvHeads: most, keyDim: most, valueDim: most,
                    rows: none), to: RowsRequest.self),
            .logSumExp(LogSumExps(tokens: tokens, heads: most, lse: none)),
            .corrected(CorrectedSlice(tokens: tokens, heads: most, valueDim: most, outputs: none)),
        ]
        for message in messages {
            let bytes = RawFrame(message).bytes
            #expect(refusal(bytes)?.code == .protocolViolation, "\(message.type)")
            #expect(
                refusal(bytes, limits: .beforeHello)?.message.contains("before the hello") == true, "\(message.type)")
        }
    }

    @Test("copied pages whose bytes overflow are refused and trap nowhere; the largest map is taken")
    func hugeCopies() throws {
        func refused(pages: Int, of pageByteCount: Int, runs: [Range<Int>] = []) -> ServiceError? {
            let stored = StoredPages(pageByteCount: pageByteCount, pages: pages, runs: runs, bytes: [], next: pages)
            return refusal(RawFrame(.reply(CopiedPages(stored), to: ReadCopy.self)).bytes)
        }
        let most = Int(UInt32.max)
        let runs = (0..<4).map { ($0 << 32)..<($0 << 32) + most }
        #expect(refused(pages: 1 << 48, of: most, runs: runs)?.code == .protocolViolation)
        #expect(refused(pages: 1 << 48, of: most)?.message.contains("\(most) bytes") == true)
        #expect(refused(pages: 1 << 48, of: 65_536)?.code == .protocolViolation)
        #expect(refused(pages: 1 << 34, of: 4096) == nil, "64 TiB, the largest map-size")
    }

    @Test("fifty models with names of one letter come back from a list and from a registration")
    func shortNames() throws {
        let shape = try ModelDescription(
            layers: 1, queryHeads: 2, kvHeads: 1, keyDim: 8, valueDim: 8, scale: 1, softcap: nil, kvFormat: .float32)
        let letters = Array("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
        for name in [letters.map(String.init), letters.map { _ in "" }] {
            let models = (0..<50).map { ModelRecord(id: ModelID(UInt32($0)), name: name[$0], description: shape) }
            let reply = Message.reply(models, to: ListModels.self)
            #expect(try decode(RawFrame(reply).bytes)?.reply(to: ListModels.self) == models)
            let registration = Registration(
                rank: RankIndex(1), store: StoreID(high: 1, low: 2), endpoint: .unix(path: "/r"), epoch: Epoch(3),
                models: models)
            guard case .register(let read)? = try decode(RawFrame(.register(registration)).bytes)?.message else {
                Issue.record("no registration")
                return
            }
            #expect(read == registration)
        }
    }

    @Test("a text of few characters and too many bytes is cut between scalars", arguments: [32_766, 32_767, 40_000])
    func longText(accents: Int) throws {
        let text = "ab" + String(repeating: "\u{301}", count: accents)
        #expect(text.count == 2)
        let bytes = RawFrame(.failure(ServiceError(.internal, text))).bytes
        guard case .failure(let error)? = try decode(bytes)?.message else {
            Issue.record("no failure")
            return
        }
        if text.utf8.count <= 65_535 {
            #expect(error.message == text)
        } else {
            #expect((65_530...65_535).contains(error.message.utf8.count))
            #expect(error.message.unicodeScalars.last == "…")
            #expect(text.unicodeScalars.starts(with: error.message.unicodeScalars.dropLast()))
        }
    }

    @Test("a tag comes back with its attempt, and attempts are of one step", arguments: [0, 1, 65_535] as [UInt16])
    func attempt(number: UInt16) throws {
        let tag = Tag(client: ClientID(5), number: 6, layer: 7, attempt: number)
        let frame = Frame(epoch: Epoch(1), tag: tag, sender: RankIndex(0), message: .operationDone)
        let bytes = encoded(frame)
        #expect(bytes[38] == UInt8(truncatingIfNeeded: number) && bytes[39] == UInt8(number >> 8))
        let found = try #require(try decode(bytes)?.tag)
        #expect(found == tag && found.attempt == number)
        let first = Tag(client: ClientID(5), number: 6, layer: 7)
        #expect(found.isSameStep(as: first) && (found == first) == (number == 0))
        #expect(!found.isSameStep(as: Tag(client: ClientID(5), number: 6, layer: 8, attempt: number)))
    }
}
