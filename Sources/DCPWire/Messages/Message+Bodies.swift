// SPDX-License-Identifier: Apache-2.0

package import DCPCore
internal import NIOCore

extension Hello: WireFields {}
extension ServiceError: WireFields {}
extension Registration: WireFields {}
extension LeaseRenewal: WireFields {}
extension Topology: WireFields {}
extension HostReport: WireFields {}

extension DirectoryMark: WireFields {
    package init(from reader: inout WireReader) throws(ServiceError) {
        self.init(try reader.read("directory mark"))
    }

    package func encode(to writer: inout WireWriter) { writer.write(value) }
}

extension RankStatus: WireFields {}
extension SequenceStatus: WireFields {}
extension SequenceLength: WireFields {}
extension VerificationStatus: WireFields {}

extension QuerySlice: FrameBody {
    package var payloadByteCount: Int { queries.readableBytes }
}

extension PartialSlice: FrameBody {
    package var payloadByteCount: Int { outputs.readableBytes + lse.readableBytes }
}

extension LogSumExps: FrameBody {
    package var payloadByteCount: Int { lse.readableBytes }
}

extension CorrectedSlice: FrameBody {
    package var payloadByteCount: Int { outputs.readableBytes }
}
