// SPDX-License-Identifier: Apache-2.0

import DCPCore
import DCPWire
import NIOCore
import Testing

@Suite("Frames: what is refused, and how it says so")
struct RefusalTests {
    @Test(
        "a foreign protocol is recognised after 4 bytes, and named",
        arguments: [
            ("GET / HTTP/1.1\r\n\r\n", "HTTP"), ("POST /x HTTP/1.1", "HTTP"), ("PRI * HTTP/2.0", "HTTP"),
            ("SSH-2.0-OpenSSH", "something else"),
        ])
    func stranger(text: String, guess: String) throws {
        for count in [4, 5, text.utf8.count] {
            let error = try #require(refusal(Array(text.utf8.prefix(count))))
            #expect(error.code == .protocolViolation)
            #expect(error.message.contains(guess) && error.message.contains("44 43 50 31"))
        }
        #expect(refusal(Array(text.utf8.prefix(3))) == nil)
    }

    @Test("TLS bytes and a bad magic are refused")
    func tls() throws {
        #expect(try #require(refusal([0x16, 0x03, 0x01, 0x02, 0x00])).message.contains("TLS"))
        var raw = RawFrame(.linksReady)
        raw.magic = [0x44, 0x43, 0x50, 0x32]
        #expect(try #require(refusal(raw.bytes)).message.contains("44 43 50 32"))
    }

    /// The simulator's track record, 2 and 8: a daemon ends itself over another release, and must not over damage.
    @Test("a flipped bit in a header is damage and never another version, in whatever pieces the header comes")
    func damagedHeader() throws {
        let bytes = RawFrame(.linksReady).bytes
        for bit in 32..<64 * 8 {
            var damaged = bytes
            damaged[bit / 8] ^= 1 << UInt8(bit % 8)
            for count in [6, 8, 63] {
                #expect(refusal(Array(damaged.prefix(count))) == nil, "bit \(bit), \(count) bytes")
            }
            let error = try #require(refusal(damaged))
            #expect(error.code == .protocolViolation && error.message.contains("damaged"), "bit \(bit)")
        }
    }

    @Test("another version is refused with both named")
    func version() throws {
        var raw = RawFrame(.linksReady)
        raw.version = 513
        let error = try #require(refusal(Array(raw.bytes.prefix(64))))
        #expect(error.code == .incompatible)
        #expect(error.message.contains("version 513") && error.message.contains("version 4;"))
    }

    @Test(
        "an unknown type is refused by its number",
        arguments: zip([0, 9, 99, 0x7FFF, 65_535] as [UInt16], ["0", "9", "99", "0x7fff", "0x7fff"]))
    func type(number: UInt16, shown: String) throws {
        var raw = RawFrame(.linksReady)
        raw.type = number
        let error = try #require(refusal(raw.bytes))
        #expect(error.code == .protocolViolation && error.message.contains(shown))
    }

    @Test("any one flipped bit of any frame is noticed")
    func flippedBits() throws {
        for message in [Message.leaseRenewed, .request(GetTopology(waitMilliseconds: 9)), .request(Samples.step())] {
            let bytes = encoded(Samples.frame(message))
            for index in bytes.indices {
                for bit in 0..<8 {
                    var damaged = bytes
                    damaged[index] ^= 1 << UInt8(bit)
                    #expect(refusal(damaged) != nil, "byte \(index) bit \(bit) of \(message.type)")
                }
            }
        }
        var body = encoded(Samples.frame(.request(GetTopology(waitMilliseconds: 9))))
        body[64] ^= 1
        #expect(try #require(refusal(body)).message.contains("damaged"))
    }

    @Test("lengths over the limits are refused from the header alone, with both numbers")
    func limits() throws {
        let limits = FrameLimits(fieldsByteCountMax: 1000, payloadByteCountMax: 2000)
        for (fields, payload, shown) in [
            (1001, 0, "1001"), (0, 2001, "2001"), (UInt32.max, 0, "4294967295"), (8, UInt32.max, "4294967295"),
        ] as [(UInt32, UInt32, String)] {
            var raw = RawFrame(type: StepRequest.type, fields: [])
            raw.fieldsByteCount = fields
            raw.payloadByteCount = payload
            let error = try #require(refusal(raw.bytes, limits: limits))
            #expect(error.code == .protocolViolation && error.message.contains(shown))
            #expect(error.message.contains("limit is \(payload > 2000 ? 2000 : 1000)"))
        }
        var exact = RawFrame(type: StepRequest.type, fields: [])
        exact.fieldsByteCount = 1000
        exact.payloadByteCount = 2000
        #expect(refusal(exact.bytes, limits: limits) == nil)
    }

    @Test("before the hello a payload of one byte is too much")
    func beforeHello() throws {
        #expect(refusal(RawFrame(.request(Samples.step())).bytes, limits: .beforeHello) != nil)
        #expect(refusal(RawFrame(try Samples.messages()[0]).bytes, limits: .beforeHello) == nil)
    }

    @Test("fields too short at every length, or too long, are refused, whatever the message")
    func fieldLengths() throws {
        for message in try Samples.messages() {
            let whole = RawFrame(message)
            for count in 0..<whole.fields.count {
                var cut = whole
                cut.fields = Array(whole.fields.prefix(count))
                #expect(refusal(cut.bytes) != nil, "\(message.type) with \(count) of \(whole.fields.count) bytes")
            }
            for extra in [1, 4, 8] {
                var long = whole
                long.fields += [UInt8](repeating: 0, count: extra)
                #expect(refusal(long.bytes)?.code == .protocolViolation, "\(message.type) with \(extra) more")
            }
        }
    }

    @Test("a payload too short at every length, too long, or where none belongs is refused")
    func payloadLengths() throws {
        for message in try Samples.messages() where message.type != StepRequest.type {
            let whole = RawFrame(message)
            for count in 0..<whole.payload.count {
                var cut = whole
                cut.payload = Array(whole.payload.prefix(count))
                #expect(refusal(cut.bytes)?.code == .protocolViolation, "\(message.type) with \(count) bytes")
            }
            var long = whole
            long.payload.append(0)
            #expect(refusal(long.bytes)?.code == .protocolViolation, "\(message.type) with one more")
        }
    }

    @Test("a step with a payload of another size is read, and refused by the size before its tensors are used")
    func stepPayloads() throws {
        for step in [Samples.step(), Samples.append(), Samples.query()] {
            try step.checkTensors()
            let whole = RawFrame(.request(step))
            for count in Array(0..<whole.payload.count) + [whole.payload.count + 1] {
                var other = step
                other.tensors = Samples.bytes(count)
                #expect(refusal(RawFrame(.request(other)).bytes) == nil, "\(count) bytes")
                let error = try #require(throws: ServiceError.self) { try other.checkTensors() }
                #expect(error.code == .invalidRequest && error.message.contains("\(count) bytes"))
            }
        }
    }
}
