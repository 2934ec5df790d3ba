// SPDX-License-Identifier: Apache-2.0

package import DCPCore

/// Registers a model, or confirms that it is registered as described.
package struct RegisterModel: RequestItem {
    package static let type = FrameType(request: 0x0101, "register model")
    /// Creating one requires a higher right.
    package static let right = ClientRight.use
    package typealias Answer = ModelRecord

    package var name: String
    package var description: ModelDescription

    package init(name: String, _ description: ModelDescription) {
        self.name = name
        self.description = description
    }

    package init(from reader: inout WireReader) throws(ServiceError) {
        name = try reader.readString("name")
        description = try ModelDescription(from: &reader)
    }

    package func encode(to writer: inout WireWriter) {
        writer.write(name)
        description.encode(to: &writer)
    }
}

/// Removes a model that no sequence uses.
package struct RemoveModel: RequestItem {
    package static let type = FrameType(request: 0x0102, "remove model")
    package typealias Answer = Done

    package var name: String

    package init(name: String) { self.name = name }

    package init(from reader: inout WireReader) throws(ServiceError) { name = try reader.readString("name") }
    package func encode(to writer: inout WireWriter) { writer.write(name) }
}

/// All models, by number.
package struct ListModels: Request, WireFields {
    package static let type = FrameType(request: 0x0103, "list models")
    package static let right = ClientRight.read
    package typealias Reply = [ModelRecord]

    package init() {}
    package init(from reader: inout WireReader) throws(ServiceError) {}
    package func encode(to writer: inout WireWriter) {}
}
