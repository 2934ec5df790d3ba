// SPDX-License-Identifier: Apache-2.0

public import DCPCore

/// A client's request about a rank's verification. Only one runs at a time; a request to start another returns the
/// running one.
public struct VerificationRequest: Hashable, Sendable {
    /// Starts one unless one is running.
    public var start: Bool
    /// The only sequence to verify, or all; of a start.
    public var sequence: SequenceID?
    /// The first finding to return, counted from the beginning of the verification.
    public var firstFinding: Int

    public init(start: Bool, sequence: SequenceID? = nil, firstFinding: Int = 0) {
        self.start = start
        self.sequence = sequence
        self.firstFinding = firstFinding
    }

    package init(from reader: inout WireReader) throws(ServiceError) {
        start = try reader.readBool("start")
        sequence = try reader.readOptional("sequence", UInt64.self).map { SequenceID($0) }
        firstFinding = Int(try reader.read("first finding", as: UInt32.self))
    }

    package func encode(to writer: inout WireWriter) {
        writer.write(start)
        writer.write(optional: sequence?.value)
        writer.write(UInt32(clamping: firstFinding))
    }
}

/// A rank's running or last verification.
public struct VerificationStatus: Hashable, Sendable {
    public enum State: UInt8, Sendable {
        /// There was none since the rank's start.
        case idle = 1
        case running = 2
        case done = 3
        /// It could not continue; `failure` has the reason.
        case failed = 4
    }

    /// Findings in one answer: as many as fit into a frame in any case.
    public static let pageMax = 128
    /// Findings that a rank keeps; further ones are only counted.
    public static let keptMax = 4096

    /// Rises with each verification of a rank since its start.
    public var run: UInt64
    public var state: State
    /// The only sequence that is verified, or all.
    public var sequence: SequenceID?
    public var progress: VerificationProgress
    public var failure: String
    /// All findings, and the number of damage findings.
    public var findingCount: Int
    public var damageCount: Int
    /// Number of findings that can be requested.
    public var keptCount: Int
    public var firstFinding: Int
    /// From `firstFinding` on, at most `pageMax`.
    public var findings: [StoreFinding]

    public init(
        run: UInt64, state: State, sequence: SequenceID?, progress: VerificationProgress, failure: String,
        findingCount: Int, damageCount: Int, keptCount: Int, firstFinding: Int, findings: [StoreFinding]
    ) {
        self.run = run
        self.state = state
        self.sequence = sequence
        self.progress = progress
        self.failure = failure
        self.findingCount = findingCount
        self.damageCount = damageCount
        self.keptCount = keptCount
        self.firstFinding = firstFinding
        self.findings = findings
    }

    package init(from reader: inout WireReader) throws(ServiceError) {
        run = try reader.read("run")
        state = try reader.readCase("state")
        sequence = try reader.readOptional("sequence", UInt64.self).map { SequenceID($0) }
        progress = VerificationProgress()
        for field in Self.progressFields { progress[keyPath: field] = try reader.readLength("progress") }
        failure = try reader.readString("failure")
        findingCount = try reader.readLength("findings")
        damageCount = try reader.readLength("damage")
        keptCount = Int(try reader.read("kept findings", as: UInt32.self))
        firstFinding = Int(try reader.read("first finding", as: UInt32.self))
        findings = try reader.readArray("findings", byteCountMin: StoreFinding.byteCountMin) {
            r throws(ServiceError) in try StoreFinding(from: &r)
        }
        guard findings.count <= Self.pageMax else {
            throw reader.malformed("has \(findings.count) findings, but the limit of an answer is \(Self.pageMax)")
        }
    }

    package func encode(to writer: inout WireWriter) {
        writer.write(run)
        writer.write(state.rawValue)
        writer.write(optional: sequence?.value)
        for field in Self.progressFields { writer.write(UInt64(progress[keyPath: field])) }
        writer.write(failure)
        writer.write(UInt64(findingCount))
        writer.write(UInt64(damageCount))
        writer.write(UInt32(clamping: keptCount))
        writer.write(UInt32(clamping: firstFinding))
        writer.write(findings) { $1.encode(to: &$0) }
    }

    private static var progressFields: [WritableKeyPath<VerificationProgress, Int>] {
        [\.byteCount, \.byteCountTotal, \.sequences, \.blocks, \.rows]
    }
}

extension StoreFinding {
    /// Without a message.
    static let byteCountMin = 31

    package init(from reader: inout WireReader) throws(ServiceError) {
        let kind: Kind = try reader.readCase("kind")
        let sequence = try reader.readOptional("sequence", UInt64.self)
        let layer = try reader.readOptional("layer", UInt32.self)
        let block = try reader.readOptional("block", UInt32.self)
        let intactLength = try reader.readOptional("intact length", UInt64.self)
        if let intactLength, intactLength > UInt64(WireReader.lengthMax) {
            throw reader.malformed("has \(intactLength) in `intact length`, but the limit is \(WireReader.lengthMax)")
        }
        self.init(
            kind, sequence: sequence.map { SequenceID($0) }, layer: layer.map { Int($0) }, block: block.map { Int($0) },
            intactLength: intactLength.map { Int($0) }, try reader.readString("message"))
    }

    package func encode(to writer: inout WireWriter) {
        writer.write(kind.rawValue)
        writer.write(optional: sequence?.value)
        writer.write(optional: layer.map { UInt32($0) })
        writer.write(optional: block.map { UInt32($0) })
        writer.write(optional: intactLength.map { UInt64($0) })
        writer.write(message)
    }
}

extension WireWriter {
    /// A bool, then the value, or 0 without one.
    mutating func write<Value: FixedWidthInteger>(optional value: Value?) {
        write(value != nil)
        write(value ?? 0)
    }
}

extension WireReader {
    /// Reads a value written by `write(optional:)`. The bytes of an absent value are 0, so that each value has one
    /// encoding.
    mutating func readOptional<Value: FixedWidthInteger>(
        _ field: StaticString, _ type: Value.Type
    ) throws(ServiceError) -> Value? {
        let isThere = try readBool(field)
        let value = try read(field, as: Value.self)
        guard isThere || value == 0 else { throw malformed("has \(value) in the absent `\(field)`") }
        return isThere ? value : nil
    }
}
