// SPDX-License-Identifier: Apache-2.0

public import DCPCore
internal import NIOCore

/// A model as the directory keeps it.
public struct ModelRecord: Hashable, Sendable, WireFields {
    public var id: ModelID
    public var name: String
    public var description: ModelDescription

    public init(id: ModelID, name: String, description: ModelDescription) {
        self.id = id
        self.name = name
        self.description = description
    }

    /// The id, an empty name, and a description of at least one kind and run.
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

    /// Its part of a frame.
    package var encodedByteCount: Int {
        var writer = WireWriter()
        encode(to: &writer)
        return writer.buffer.readableBytes
    }
}

extension ModelRecord {
    /// - Parameter revision: the client's revision; if it is empty, nothing is compared.
    /// - Throws: `.modelMismatch` with both when the model has another.
    package func check(revision: String) throws(ServiceError) {
        guard !revision.isEmpty, revision != description.revision else { return }
        throw ServiceError(
            .modelMismatch,
            "Model `\(name)` has \(description.revision.map { "revision `\($0)`" } ?? "no revision"), but the "
                + "client's is "
                + "`\(revision)`: keys and values computed with one are wrong for the other. Register the client's "
                + "model under another name."
        )
    }
}

/// A sequence in the directory. Only the ranks know its length.
public struct SequenceRecord: Hashable, Sendable, WireFields {
    public var id: SequenceID
    public var name: String
    public var model: ModelID
    /// Limits matches: only clients that give the same scope find the sequence. Empty, or for example a tenant's name
    /// or a salt.
    public var scope: String

    public init(id: SequenceID, name: String, model: ModelID, scope: String = "") {
        self.id = id
        self.name = name
        self.model = model
        self.scope = scope
    }

    static let byteCountMin = 16

    package init(from reader: inout WireReader) throws(ServiceError) {
        id = SequenceID(try reader.read("sequence"))
        name = try reader.readString("sequence name")
        model = ModelID(try reader.read("model"))
        scope = try reader.readString("scope")
    }

    package func encode(to writer: inout WireWriter) {
        writer.write(id.value)
        writer.write(name)
        writer.write(model.value)
        writer.write(scope)
    }
}

extension ModelDescription {
    /// A byte count: u32, and the bytes of `encoded`.
    package init(from reader: inout WireReader) throws(ServiceError) {
        try self.init(encoded: try reader.readBytes("model description"))
    }

    package func encode(to writer: inout WireWriter) { writer.write(bytes: encoded) }
}
