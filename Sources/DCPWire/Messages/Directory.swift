public import DCPCore

/// A model as the directory keeps it.
public struct ModelRecord: Hashable, Sendable {
    public var id: ModelID
    public var name: String
    public var description: ModelDescription

    public init(id: ModelID, name: String, description: ModelDescription) {
        self.id = id
        self.name = name
        self.description = description
    }

    /// The id, an empty name and a description of at least one kind and run.
    static let byteCountMin = 45

    package init(from reader: inout WireReader) throws(ServiceError) {
        id = ModelID(try reader.read("model"))
        name = try reader.readString("model name")
        description = try ModelDescription(from: &reader)
    }

    package func encode(to writer: inout WireWriter) {
        writer.write(id.value)
        writer.write(name)
        description.encode(to: &writer)
    }
}

/// A sequence as the directory keeps it. Its length is the ranks' to tell.
public struct SequenceRecord: Hashable, Sendable {
    public var id: SequenceID
    public var name: String
    public var model: ModelID

    public init(id: SequenceID, name: String, model: ModelID) {
        self.id = id
        self.name = name
        self.model = model
    }

    static let byteCountMin = 14

    package init(from reader: inout WireReader) throws(ServiceError) {
        id = SequenceID(try reader.read("sequence"))
        name = try reader.readString("sequence name")
        model = ModelID(try reader.read("model"))
    }

    package func encode(to writer: inout WireWriter) {
        writer.write(id.value)
        writer.write(name)
        writer.write(model.value)
    }
}

extension ModelDescription {
    /// A byte count: u32, and the bytes of `encoded`.
    package init(from reader: inout WireReader) throws(ServiceError) {
        try self.init(encoded: try reader.readBytes("model description"))
    }

    package func encode(to writer: inout WireWriter) { writer.write(bytes: encoded) }
}

/// What the coordinator carries to every rank after it has recorded it. Each is idempotent: at a rejoin it is sent again.
public enum DirectoryOperation: Hashable, Sendable {
    case putModel(ModelRecord)
    case removeModel(ModelID)
    case open(SequenceID, model: ModelID)
    case fork(parent: SequenceID, child: SequenceID, length: Int)
    case truncate(SequenceID, length: Int)
    case close(SequenceID)
    /// Closes a sequence that nobody asked to close, to make room.
    case evict(SequenceID)
    /// A client takes a sequence over: older claims are refused from now on. Never recorded.
    case claim(SequenceID, Claim)

    init(from reader: inout WireReader) throws(ServiceError) {
        let kind: UInt8 = try reader.read("operation")
        switch kind {
        case 1: self = .putModel(try ModelRecord(from: &reader))
        case 2: self = .removeModel(ModelID(try reader.read("model")))
        case 3: self = .open(SequenceID(try reader.read("sequence")), model: ModelID(try reader.read("model")))
        case 4:
            self = .fork(
                parent: SequenceID(try reader.read("parent")), child: SequenceID(try reader.read("child")),
                length: try reader.readLength("length"))
        case 5: self = .truncate(SequenceID(try reader.read("sequence")), length: try reader.readLength("length"))
        case 6: self = .close(SequenceID(try reader.read("sequence")))
        case 7: self = .evict(SequenceID(try reader.read("sequence")))
        case 8: self = .claim(SequenceID(try reader.read("sequence")), Claim(try reader.read("claim")))
        default: throw reader.malformed("has the unknown operation \(kind)")
        }
    }

    func encode(to writer: inout WireWriter) {
        switch self {
        case .putModel(let record):
            writer.write(UInt8(1))
            record.encode(to: &writer)
        case .removeModel(let model):
            writer.write(UInt8(2))
            writer.write(model.value)
        case .open(let sequence, let model):
            writer.write(UInt8(3))
            writer.write(sequence.value)
            writer.write(model.value)
        case .fork(let parent, let child, let length):
            writer.write(UInt8(4))
            writer.write(parent.value)
            writer.write(child.value)
            writer.write(UInt64(length))
        case .truncate(let sequence, let length):
            writer.write(UInt8(5))
            writer.write(sequence.value)
            writer.write(UInt64(length))
        case .close(let sequence):
            writer.write(UInt8(6))
            writer.write(sequence.value)
        case .evict(let sequence):
            writer.write(UInt8(7))
            writer.write(sequence.value)
        case .claim(let sequence, let claim):
            writer.write(UInt8(8))
            writer.write(sequence.value)
            writer.write(claim.value)
        }
    }
}

/// What a client asks of the coordinator's directory. Names are unique in the cluster.
public enum DirectoryRequest: Hashable, Sendable {
    /// Registers a model, or confirms that it is registered as described.
    case registerModel(name: String, ModelDescription)
    case removeModel(name: String)
    case listModels
    /// Opens a sequence; creates it when it is new and `create` is set. Refused when a revision is given, not empty, and the
    /// model has another.
    case openSequence(name: String, model: String, revision: String, create: Bool)
    case listSequences
    /// This and the next two are refused unless the claim is the sequence's latest.
    case truncate(name: String, length: Int, claim: Claim)
    case fork(name: String, newName: String, length: Int, claim: Claim)
    case close(name: String, claim: Claim)
    /// Keeps a sequence from being evicted.
    case pin(name: String)
    case unpin(name: String)
    /// Takes a sequence over: answered when every rank refuses older claims, and no operation of one is under way.
    ///
    /// With a claim that is held the sequence is only kept: refused when somebody else has claimed it since.
    case claim(SequenceID, held: Claim)

    init(from reader: inout WireReader) throws(ServiceError) {
        let kind: UInt8 = try reader.read("request")
        switch kind {
        case 1: self = .registerModel(name: try reader.readString("name"), try ModelDescription(from: &reader))
        case 2: self = .removeModel(name: try reader.readString("name"))
        case 3: self = .listModels
        case 4:
            self = .openSequence(
                name: try reader.readString("name"), model: try reader.readString("model"),
                revision: try reader.readString("revision"), create: try reader.readBool("create"))
        case 5: self = .listSequences
        case 6:
            self = .truncate(
                name: try reader.readString("name"), length: try reader.readLength("length"),
                claim: Claim(try reader.read("claim")))
        case 7:
            self = .fork(
                name: try reader.readString("name"), newName: try reader.readString("new name"),
                length: try reader.readLength("length"), claim: Claim(try reader.read("claim")))
        case 8: self = .close(name: try reader.readString("name"), claim: Claim(try reader.read("claim")))
        case 9: self = .pin(name: try reader.readString("name"))
        case 10: self = .unpin(name: try reader.readString("name"))
        case 11: self = .claim(SequenceID(try reader.read("sequence")), held: Claim(try reader.read("claim")))
        default: throw reader.malformed("has the unknown request \(kind)")
        }
    }

    func encode(to writer: inout WireWriter) {
        switch self {
        case .registerModel(let name, let description):
            writer.write(UInt8(1))
            writer.write(name)
            description.encode(to: &writer)
        case .removeModel(let name):
            writer.write(UInt8(2))
            writer.write(name)
        case .listModels: writer.write(UInt8(3))
        case .openSequence(let name, let model, let revision, let create):
            writer.write(UInt8(4))
            writer.write(name)
            writer.write(model)
            writer.write(revision)
            writer.write(create)
        case .listSequences: writer.write(UInt8(5))
        case .truncate(let name, let length, let claim):
            writer.write(UInt8(6))
            writer.write(name)
            writer.write(UInt64(length))
            writer.write(claim.value)
        case .fork(let name, let newName, let length, let claim):
            writer.write(UInt8(7))
            writer.write(name)
            writer.write(newName)
            writer.write(UInt64(length))
            writer.write(claim.value)
        case .close(let name, let claim):
            writer.write(UInt8(8))
            writer.write(name)
            writer.write(claim.value)
        case .pin(let name):
            writer.write(UInt8(9))
            writer.write(name)
        case .unpin(let name):
            writer.write(UInt8(10))
            writer.write(name)
        case .claim(let sequence, let held):
            writer.write(UInt8(11))
            writer.write(sequence.value)
            writer.write(held.value)
        }
    }
}

/// The records a directory request was about: all of them for a list, the ones it made or found otherwise.
public struct DirectoryReply: Hashable, Sendable {
    public var models: [ModelRecord]
    public var sequences: [SequenceRecord]
    /// Those of the sequences that are pinned.
    public var pinned: [SequenceID]
    /// What was asked for by `claim`, else none.
    public var claim: Claim

    public init(
        models: [ModelRecord] = [], sequences: [SequenceRecord] = [], pinned: [SequenceID] = [], claim: Claim = .none
    ) {
        self.models = models
        self.sequences = sequences
        self.pinned = pinned
        self.claim = claim
    }

    init(from reader: inout WireReader) throws(ServiceError) {
        models = try reader.readArray("models", byteCountMin: ModelRecord.byteCountMin) {
            r throws(ServiceError) in try ModelRecord(from: &r)
        }
        sequences = try reader.readArray("sequences", byteCountMin: SequenceRecord.byteCountMin) {
            r throws(ServiceError) in try SequenceRecord(from: &r)
        }
        pinned = try reader.readArray("pinned", byteCountMin: 8) { r throws(ServiceError) in
            SequenceID(try r.read("sequence"))
        }
        claim = Claim(try reader.read("claim"))
    }

    func encode(to writer: inout WireWriter) {
        writer.write(models) { $1.encode(to: &$0) }
        writer.write(sequences) { $1.encode(to: &$0) }
        writer.write(pinned) { $0.write($1.value) }
        writer.write(claim.value)
    }
}
