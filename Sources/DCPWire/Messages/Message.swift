public import DCPCore
internal import NIOCore

/// Every message of the protocol. The article *Protocol* describes each, byte by byte.
public enum Message: Sendable {
    case hello(Hello)
    case welcome(Hello)
    case failure(ServiceError)

    case register(Registration)
    case renewLease(LeaseRenewal)
    case leaseRenewed
    case topology(Topology)
    case linksReady
    case operation(DirectoryOperation)
    case operationDone
    /// Why ranks of the cluster take no new tokens, each with its rank; empty when all do.
    case refusals([ServiceError])
    /// Sequences that may be evicted, the least recently used first.
    case victimsRequest([SequenceID])
    /// Those of them that have to go, so that the rank's store has the room it wants.
    case victims([SequenceID])

    /// Answered when the cluster is ready, or after so many milliseconds, whatever it is then.
    case topologyRequest(waitMilliseconds: UInt32)
    case directoryRequest(DirectoryRequest)
    case directoryReply(DirectoryReply)

    case step(StepRequest)
    case stepResult(StepResult)
    case commit([SequenceLength])
    case committed
    case sequenceStatusRequest([SequenceID])
    case sequenceStatus([SequenceStatus])
    /// To one length in all layers.
    case rewind(SequenceLength)
    case rewound
    case rankStatusRequest
    case rankStatus(RankStatus)
    case verificationRequest(VerificationRequest)
    case verification(VerificationStatus)
    case rowsRequest(RowsRequest)
    case rows(RowsReply)

    case query(QuerySlice)
    case partial(PartialSlice)
    case logSumExp(LogSumExpRows)
    case corrected(CorrectedSlice)
    case abort(ServiceError)
    /// The sender has its tokens of a step without queries.
    case appended

    case hostReportRequest
    case hostReport(HostReport)

    public var type: FrameType {
        switch self {
        case .hello: .hello
        case .welcome: .welcome
        case .failure: .failure
        case .register: .register
        case .renewLease: .renewLease
        case .leaseRenewed: .leaseRenewed
        case .topology: .topology
        case .linksReady: .linksReady
        case .operation: .operation
        case .operationDone: .operationDone
        case .refusals: .refusals
        case .victimsRequest: .victimsRequest
        case .victims: .victims
        case .topologyRequest: .topologyRequest
        case .directoryRequest: .directoryRequest
        case .directoryReply: .directoryReply
        case .step: .step
        case .stepResult: .stepResult
        case .commit: .commit
        case .committed: .committed
        case .sequenceStatusRequest: .sequenceStatusRequest
        case .sequenceStatus: .sequenceStatus
        case .rewind: .rewind
        case .rewound: .rewound
        case .rankStatusRequest: .rankStatusRequest
        case .rankStatus: .rankStatus
        case .verificationRequest: .verificationRequest
        case .verification: .verification
        case .rowsRequest: .rowsRequest
        case .rows: .rows
        case .query: .query
        case .partial: .partial
        case .logSumExp: .logSumExp
        case .corrected: .corrected
        case .abort: .abort
        case .appended: .appended
        case .hostReportRequest: .hostReportRequest
        case .hostReport: .hostReport
        }
    }
}

extension Message {
    /// Bytes of tensors, which follow the fields.
    public var payloadByteCount: Int {
        switch self {
        case .step(let step):
            step.tensors.readableBytes
        case .stepResult(let result): result.outputs.readableBytes + (result.lse?.readableBytes ?? 0)
        case .rows(let rows): rows.rows.readableBytes
        case .query(let slice): slice.queries.readableBytes
        case .partial(let slice): slice.outputs.readableBytes + slice.lse.readableBytes
        case .logSumExp(let rows): rows.lse.readableBytes
        case .corrected(let slice): slice.outputs.readableBytes
        default: 0
        }
    }

    /// Writes the fields; returns the payload, which follows them uncopied.
    func encode(to writer: inout WireWriter) -> ByteBuffer? {
        switch self {
        case .hello(let hello), .welcome(let hello): hello.encode(to: &writer)
        case .failure(let error), .abort(let error): error.encode(to: &writer)
        case .register(let registration): registration.encode(to: &writer)
        case .renewLease(let renewal): renewal.encode(to: &writer)
        case .topology(let topology): topology.encode(to: &writer)
        case .operation(let operation): operation.encode(to: &writer)
        case .refusals(let refusals): writer.write(refusals) { $1.encode(to: &$0) }
        case .topologyRequest(let waitMilliseconds): writer.write(waitMilliseconds)
        case .directoryRequest(let request): request.encode(to: &writer)
        case .directoryReply(let reply): reply.encode(to: &writer)
        case .step(let step): return step.encode(to: &writer)
        case .stepResult(let result): return result.encode(to: &writer)
        case .commit(let lengths): writer.write(lengths) { $1.encode(to: &$0) }
        case .sequenceStatusRequest(let sequences), .victimsRequest(let sequences), .victims(let sequences):
            writer.write(sequences) { $0.write($1.value) }
        case .sequenceStatus(let statuses): writer.write(statuses) { $1.encode(to: &$0) }
        case .rewind(let length): length.encode(to: &writer)
        case .rankStatus(let status): status.encode(to: &writer)
        case .verificationRequest(let request): request.encode(to: &writer)
        case .verification(let status): status.encode(to: &writer)
        case .rowsRequest(let request): request.encode(to: &writer)
        case .rows(let rows): return rows.encode(to: &writer)
        case .hostReport(let report): report.encode(to: &writer)
        case .query(let slice): return slice.encode(to: &writer)
        case .partial(let slice): return slice.encode(to: &writer)
        case .logSumExp(let rows): return rows.encode(to: &writer)
        case .corrected(let slice): return slice.encode(to: &writer)
        case .leaseRenewed, .linksReady, .operationDone, .committed, .rewound, .rankStatusRequest, .appended,
            .hostReportRequest:
            break
        }
        return nil
    }

    init(type: FrameType, fields reader: inout WireReader, payload: ByteBuffer) throws(ServiceError) {
        switch type {
        case .step: self = .step(try StepRequest(from: &reader, payload: payload))
        case .stepResult: self = .stepResult(try StepResult(from: &reader, payload: payload))
        case .rows: self = .rows(try RowsReply(from: &reader, payload: payload))
        case .query: self = .query(try QuerySlice(from: &reader, payload: payload))
        case .partial: self = .partial(try PartialSlice(from: &reader, payload: payload))
        case .logSumExp: self = .logSumExp(try LogSumExpRows(from: &reader, payload: payload))
        case .corrected: self = .corrected(try CorrectedSlice(from: &reader, payload: payload))
        default:
            guard payload.readableBytes == 0 else {
                throw reader.malformed("has \(payload.readableBytes) bytes of payload, but never has any")
            }
            try self.init(controlType: type, fields: &reader)
        }
    }

    private init(controlType type: FrameType, fields reader: inout WireReader) throws(ServiceError) {
        switch type {
        case .hello: self = .hello(try Hello(from: &reader))
        case .welcome: self = .welcome(try Hello(from: &reader))
        case .failure: self = .failure(try ServiceError(from: &reader))
        case .abort: self = .abort(try ServiceError(from: &reader))
        case .appended: self = .appended
        case .register: self = .register(try Registration(from: &reader))
        case .renewLease: self = .renewLease(try LeaseRenewal(from: &reader))
        case .leaseRenewed: self = .leaseRenewed
        case .topology: self = .topology(try Topology(from: &reader))
        case .linksReady: self = .linksReady
        case .operation: self = .operation(try DirectoryOperation(from: &reader))
        case .operationDone: self = .operationDone
        case .refusals:
            self = .refusals(
                try reader.readArray("refusals", byteCountMin: 6) {
                    r throws(ServiceError) in try ServiceError(from: &r)
                })
        case .victimsRequest: self = .victimsRequest(try Self.sequences(from: &reader))
        case .victims: self = .victims(try Self.sequences(from: &reader))
        case .topologyRequest: self = .topologyRequest(waitMilliseconds: try reader.read("wait"))
        case .directoryRequest: self = .directoryRequest(try DirectoryRequest(from: &reader))
        case .directoryReply: self = .directoryReply(try DirectoryReply(from: &reader))
        case .commit:
            self = .commit(
                try reader.readArray("sequences", byteCountMin: SequenceLength.byteCount) {
                    r throws(ServiceError) in try SequenceLength(from: &r)
                })
        case .committed: self = .committed
        case .sequenceStatusRequest:
            self = .sequenceStatusRequest(try Self.sequences(from: &reader))
        case .sequenceStatus:
            self = .sequenceStatus(
                try reader.readArray("sequences", byteCountMin: SequenceStatus.byteCountMin) {
                    r throws(ServiceError) in try SequenceStatus(from: &r)
                })
        case .rewind: self = .rewind(try SequenceLength(from: &reader))
        case .rewound: self = .rewound
        case .rankStatusRequest: self = .rankStatusRequest
        case .rankStatus: self = .rankStatus(try RankStatus(from: &reader))
        case .verificationRequest: self = .verificationRequest(try VerificationRequest(from: &reader))
        case .verification: self = .verification(try VerificationStatus(from: &reader))
        case .rowsRequest: self = .rowsRequest(try RowsRequest(from: &reader))
        case .hostReportRequest: self = .hostReportRequest
        case .hostReport: self = .hostReport(try HostReport(from: &reader))
        case .step, .stepResult, .rows, .query, .partial, .logSumExp, .corrected:
            preconditionFailure("\(type) has a payload and is decoded with it")
        }
    }

    private static func sequences(from reader: inout WireReader) throws(ServiceError) -> [SequenceID] {
        try reader.readArray("sequences", byteCountMin: 8) { r throws(ServiceError) in
            SequenceID(try r.read("sequence"))
        }
    }
}
