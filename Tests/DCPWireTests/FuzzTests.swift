// SPDX-License-Identifier: Apache-2.0

import DCPCore
import DCPTestKit
import DCPWire
import NIOCore
import Testing

@Suite("Frames: mutations of good ones")
struct FuzzTests {
    private func mutated(_ bytes: [UInt8], _ generator: inout SeededGenerator) -> [UInt8] {
        var bytes = bytes
        for _ in 0..<Int.random(in: 1...6, using: &generator) where !bytes.isEmpty {
            let index = Int.random(in: 0..<bytes.count, using: &generator)
            switch Int.random(in: 0..<5, using: &generator) {
            case 0: bytes[index] = UInt8.random(in: 0...255, using: &generator)
            case 1: bytes[index] = [0, 1, 0x7F, 0x80, 0xFF].randomElement(using: &generator)!
            case 2: bytes.remove(at: index)
            case 3: bytes.insert(UInt8.random(in: 0...255, using: &generator), at: index)
            default:
                for position in index..<min(index + 8, bytes.count) { bytes[position] = 0xFF }
            }
        }
        return bytes
    }

    @Test("damaged on the way, a frame is never taken for another")
    func damaged() throws {
        var generator = SeededGenerator.ofRun(salt: 10)
        let samples = try Samples.messages().map { encoded(Samples.frame($0)) }
        for _ in 0..<20_000 {
            let original = samples.randomElement(using: &generator)!
            let bytes = mutated(original, &generator)
            guard !bytes.starts(with: original) else { continue }
            let frame: Frame?
            do throws(ServiceError) {
                frame = try decode(bytes)
            } catch {
                #expect([.protocolViolation, .incompatible].contains(error.code))
                continue
            }
            #expect(frame == nil, "seed \(SeededGenerator.seed): \(bytes)")
        }
    }

    @Test("with right checksums, wrong contents are refused or are a message that goes round again; none crashes")
    func forged() throws {
        var generator = SeededGenerator.ofRun(salt: 11)
        let samples = try Samples.messages().map { RawFrame($0) }
        var taken = 0, refused = 0
        for _ in 0..<40_000 {
            var raw = samples.randomElement(using: &generator)!
            if Bool.random(using: &generator) { raw.fields = mutated(raw.fields, &generator) }
            if Int.random(in: 0..<8, using: &generator) == 0 { raw.payload = mutated(raw.payload, &generator) }
            if Int.random(in: 0..<8, using: &generator) == 0 {
                raw.type = Catalog.types.randomElement(using: &generator)!.rawValue
            }
            do throws(ServiceError) {
                guard let frame = try decode(raw.bytes) else {
                    Issue.record("seed \(SeededGenerator.seed): a whole frame was not seen as one: \(raw)")
                    continue
                }
                guard let again = try decode(encoded(try Catalog.rewritten(frame))) else {
                    Issue.record("seed \(SeededGenerator.seed): what was written anew is no frame: \(raw)")
                    continue
                }
                taken += 1
                let (said, read) = (try Catalog.contents(of: frame), try Catalog.contents(of: again))
                #expect(structure(read) == structure(said), "seed \(SeededGenerator.seed)")
            } catch {
                refused += 1
            }
        }
        // Both happen, or the mutations test nothing.
        #expect(taken > 1000 && refused > 1000)
    }

    @Test("random bytes behind a right header never crash", arguments: Catalog.types)
    func randomBodies(type: FrameType) throws {
        var generator = SeededGenerator.ofRun(salt: 100 + UInt64(type.rawValue))
        for _ in 0..<500 {
            let fields = (0..<Int.random(in: 0...120, using: &generator)).map { _ in
                Bool.random(using: &generator) ? 0 : UInt8.random(in: 0...255, using: &generator)
            }
            let payload = [UInt8](repeating: 0x3C, count: Int.random(in: 0...1, using: &generator) * 96)
            let bytes = RawFrame(type: type, fields: fields, payload: payload).bytes
            // Taken or refused with a message: either way the process is still here.
            if let error = refusal(bytes) { #expect(!error.message.isEmpty) }
        }
    }
}
