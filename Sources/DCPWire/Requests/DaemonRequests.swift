// SPDX-License-Identifier: Apache-2.0

package import DCPCore

/// The cluster's topology: answered when the cluster is ready, or after this many milliseconds in any case.
package struct GetTopology: Request, WireFields {
    package static let type = FrameType(request: 0x0100, "topology")
    package static let right = ClientRight.read
    package typealias Reply = Topology

    /// The longest that the coordinator waits, whatever it is asked for.
    package static let waitMax = Duration.seconds(600)

    package var waitMilliseconds: UInt32

    package init(waitMilliseconds: UInt32) { self.waitMilliseconds = waitMilliseconds }

    package init(from reader: inout WireReader) throws(ServiceError) { waitMilliseconds = try reader.read("wait") }
    package func encode(to writer: inout WireWriter) { writer.write(waitMilliseconds) }
}

/// A daemon's report of its host.
package struct GetHostReport: Request, WireFields {
    package static let type = FrameType(request: 0x0300, "host report")
    package static let right = ClientRight.read
    package typealias Reply = HostReport

    package init() {}
    package init(from reader: inout WireReader) throws(ServiceError) {}
    package func encode(to writer: inout WireWriter) {}
}
