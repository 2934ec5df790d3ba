// SPDX-License-Identifier: Apache-2.0

public import DCPCore
package import NIOCore

/// Every kind of frame.
///
/// The article *Protocol* describes each, byte by byte. Notices are decoded on arrival, and values that take a
/// `Message` decide what to do. Requests and replies are decoded by the code that expects them.
public enum Message: Sendable {
    case hello(Hello)
    case welcome(Hello)
    case failure(ServiceError)

    case register(Registration)
    /// A page of the sequences in a rank's store.
    case heldSequences(HeldSequences)
    case renewLease(LeaseRenewal)
    case leaseRenewed
    case topology(Topology)
    case linksReady
    case operation(DirectoryOperation)
    case operationDone
    /// Why ranks of the cluster refuse new tokens, each with its rank; empty if all accept them.
    case refusals([ServiceError])
    /// Sequences that may be evicted, the least recently used first.
    case victimsRequest([SequenceID])
    /// Those of them that must be closed to free the space that the rank's store needs.
    case victims([SequenceID])
    /// Which sequence begins with most of some token ids.
    case matchRequest(MatchQuestion)
    /// At most one.
    case matched([HeldLength])
    /// How much of sequences a rank has committed and intact.
    case lengthsRequest([SequenceID])
    /// Of those that it has.
    case lengths([HeldLength])
    /// The names and models of sequences.
    case recordsRequest([SequenceID])
    /// Of those that the rank has.
    case records([SequenceRecord])
    /// Hold a snapshot of the store under the tag's number.
    case copyRequest
    case copyHeld
    /// The number of changes in the directory: a coordinator with fewer in this epoch has an older state.
    case directoryMark(DirectoryMark)

    /// Where the accepting side of a connection receives memory for both.
    case memoryRequest(MemoryAddress)
    /// It has been sent there.
    case memorySent
    /// It is in use: payloads may be in it from here on.
    case memoryTaken

    case query(QuerySlice)
    case partial(PartialSlice)
    case logSumExp(LogSumExps)
    case corrected(CorrectedSlice)
    case abort(ServiceError)
    /// The sender has its tokens of a step without queries.
    case appended

    case request(EncodedBody)
    case reply(EncodedBody)
}

extension Message {
    public var type: FrameType { parts.type }

    /// Bytes of the tensors, which follow the fields.
    public var payloadByteCount: Int { parts.body.payloadByteCount }

    /// The fields, and the payload uncopied. A body that is already encoded stays as it is.
    var encoded: EncodedBody {
        switch self {
        case .request(let body), .reply(let body): return body
        default:
            let (type, body) = parts
            var writer = WireWriter()
            let payload = body.encodeBody(to: &writer)
            return EncodedBody(type: type, fields: writer.buffer, payload: payload)
        }
    }

    private var parts: (type: FrameType, body: any FrameBody) {
        switch self {
        case .hello(let hello): (.hello, hello)
        case .welcome(let hello): (.welcome, hello)
        case .failure(let error): (.failure, error)
        case .register(let registration): (.register, registration)
        case .heldSequences(let page): (.heldSequences, page)
        case .renewLease(let renewal): (.renewLease, renewal)
        case .leaseRenewed: (.leaseRenewed, Done())
        case .topology(let topology): (.topology, topology)
        case .linksReady: (.linksReady, Done())
        case .operation(let operation): (.operation, operation)
        case .operationDone: (.operationDone, Done())
        case .refusals(let refusals): (.refusals, refusals)
        case .victimsRequest(let sequences): (.victimsRequest, sequences)
        case .victims(let sequences): (.victims, sequences)
        case .matchRequest(let question): (.matchRequest, question)
        case .matched(let found): (.matched, found)
        case .lengthsRequest(let sequences): (.lengthsRequest, sequences)
        case .lengths(let lengths): (.lengths, lengths)
        case .recordsRequest(let sequences): (.recordsRequest, sequences)
        case .records(let records): (.records, records)
        case .copyRequest: (.copyRequest, Done())
        case .copyHeld: (.copyHeld, Done())
        case .directoryMark(let mark): (.directoryMark, mark)
        case .memoryRequest(let address): (.memoryRequest, address)
        case .memorySent: (.memorySent, Done())
        case .memoryTaken: (.memoryTaken, Done())
        case .query(let slice): (.query, slice)
        case .partial(let slice): (.partial, slice)
        case .logSumExp(let rows): (.logSumExp, rows)
        case .corrected(let slice): (.corrected, slice)
        case .abort(let error): (.abort, error)
        case .appended: (.appended, Done())
        case .request(let body), .reply(let body): (body.type, body)
        }
    }

    init(type: FrameType, fields: ByteBuffer, payload: ByteBuffer) throws(ServiceError) {
        func body<Body: FrameBody>() throws(ServiceError) -> Body {
            var reader = WireReader(fields, of: type)
            let body = try Body(from: &reader, payload: payload)
            try reader.finish()
            return body
        }
        func done(_ message: Message) throws(ServiceError) -> Message {
            let _: Done = try body()
            return message
        }
        switch type {
        case .hello: self = .hello(try body())
        case .welcome: self = .welcome(try body())
        case .failure: self = .failure(try body())
        case .register: self = .register(try body())
        case .heldSequences: self = .heldSequences(try body())
        case .renewLease: self = .renewLease(try body())
        case .leaseRenewed: self = try done(.leaseRenewed)
        case .topology: self = .topology(try body())
        case .linksReady: self = try done(.linksReady)
        case .operation: self = .operation(try body())
        case .operationDone: self = try done(.operationDone)
        case .refusals: self = .refusals(try body())
        case .victimsRequest: self = .victimsRequest(try body())
        case .victims: self = .victims(try body())
        case .matchRequest: self = .matchRequest(try body())
        case .matched: self = .matched(try body())
        case .lengthsRequest: self = .lengthsRequest(try body())
        case .lengths: self = .lengths(try body())
        case .recordsRequest: self = .recordsRequest(try body())
        case .records: self = .records(try body())
        case .copyRequest: self = try done(.copyRequest)
        case .copyHeld: self = try done(.copyHeld)
        case .directoryMark: self = .directoryMark(try body())
        case .memoryRequest: self = .memoryRequest(try body())
        case .memorySent: self = try done(.memorySent)
        case .memoryTaken: self = try done(.memoryTaken)
        case .query: self = .query(try body())
        case .partial: self = .partial(try body())
        case .logSumExp: self = .logSumExp(try body())
        case .corrected: self = .corrected(try body())
        case .abort: self = .abort(try body())
        case .appended: self = try done(.appended)
        case _ where type.isReply: self = .reply(EncodedBody(type: type, fields: fields, payload: [payload]))
        default: self = .request(EncodedBody(type: type, fields: fields, payload: [payload]))
        }
    }
}

/// Already encoded, or not decoded yet.
extension EncodedBody: FrameBody {
    package init(from reader: inout WireReader, payload: ByteBuffer) throws(ServiceError) {
        self.init(type: reader.type, fields: reader.takeRest(), payload: [payload])
    }

    package func encodeBody(to writer: inout WireWriter) -> [ByteBuffer] {
        writer.write(encoded: fields)
        return payload
    }

    package var payloadByteCount: Int { payload.readableByteCount }
}
