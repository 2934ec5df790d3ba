// SPDX-License-Identifier: Apache-2.0

package import DCPCore

extension Retention: WireFields {
    package init(from reader: inout WireReader) throws(ServiceError) {
        self.init()
        isPinned = try reader.readBool("pinned")
        isKept = try reader.readBool("kept")
        priority = try reader.read("priority")
        timeToLive = try reader.read("time to live")
    }

    package func encode(to writer: inout WireWriter) {
        writer.write(isPinned)
        writer.write(isKept)
        writer.write(priority)
        writer.write(timeToLive)
    }
}

/// Changes the retention of a sequence. Durable; needs no claim.
package struct RetainSequence: RequestItem {
    package static let type = FrameType(request: 0x010A, "retain sequence")
    package typealias Answer = Retention

    package var name: String
    package var isPinned: Bool?
    package var priority: Int8?
    package var timeToLive: UInt32?

    package init(name: String, isPinned: Bool? = nil, priority: Int8? = nil, timeToLive: UInt32? = nil) {
        self.name = name
        self.isPinned = isPinned
        self.priority = priority
        self.timeToLive = timeToLive
    }

    package init(from reader: inout WireReader) throws(ServiceError) {
        name = try reader.readString("name")
        let pinned = try reader.readOptional("pinned", UInt8.self)
        guard pinned ?? 0 <= 1 else { throw reader.malformed("has \(pinned!) in `pinned`, which is 0 or 1") }
        isPinned = pinned.map { $0 == 1 }
        priority = try reader.readOptional("priority", Int8.self)
        timeToLive = try reader.readOptional("time to live", UInt32.self)
    }

    package func encode(to writer: inout WireWriter) {
        writer.write(name)
        writer.write(optional: isPinned.map { UInt8($0 ? 1 : 0) })
        writer.write(optional: priority)
        writer.write(optional: timeToLive)
    }
}
