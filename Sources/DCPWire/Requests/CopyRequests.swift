// SPDX-License-Identifier: Apache-2.0

package import DCPCore
package import NIOCore

/// Makes all daemons hold snapshots of their stores from the same moment, for a backup.
package struct BeginCopy: RequestItem {
    package static let type = FrameType(request: 0x010C, "begin copy")
    package typealias Answer = BegunCopy
    package static let itemsMax = 1

    /// How long operations may be held back for it, at most 10 s.
    package var waitMilliseconds: UInt32

    package init(waitMilliseconds: UInt32) { self.waitMilliseconds = waitMilliseconds }

    package init(from reader: inout WireReader) throws(ServiceError) { waitMilliseconds = try reader.read("wait") }
    package func encode(to writer: inout WireWriter) { writer.write(waitMilliseconds) }
}

/// The number under which each daemon holds its store.
package struct BegunCopy: WireFields, Hashable {
    package var number: UInt64
    package var epoch: Epoch

    package init(number: UInt64, epoch: Epoch) {
        self.number = number
        self.epoch = epoch
    }

    package init(from reader: inout WireReader) throws(ServiceError) {
        number = try reader.read("number")
        epoch = Epoch(try reader.read("epoch"))
    }

    package func encode(to writer: inout WireWriter) {
        writer.write(number)
        writer.write(epoch.value)
    }
}

/// Reads pages of a held store, from some page on.
package struct ReadCopy: Request, WireFields {
    package static let type = FrameType(request: 0x0301, "read copy")
    package typealias Reply = CopiedPages

    package var number: UInt64
    package var page: Int

    package init(number: UInt64, page: Int) {
        self.number = number
        self.page = page
    }

    package init(from reader: inout WireReader) throws(ServiceError) {
        number = try reader.read("number")
        page = try reader.readLength("page")
    }

    package func encode(to writer: inout WireWriter) {
        writer.write(number)
        writer.write(UInt64(page))
    }
}

package struct CopiedPages: FrameBody {
    package var pages: StoredPages

    package init(_ pages: StoredPages) { self.pages = pages }

    package init(from reader: inout WireReader, payload: ByteBuffer) throws(ServiceError) {
        let pageByteCount = Int(try reader.read("page bytes", as: UInt32.self))
        let count = try reader.readLength("pages"), next = try reader.readLength("next")
        let runs = try reader.readArray("runs", byteCountMin: 12) { r throws(ServiceError) in
            // A length and 32 bits: their sum cannot overflow.
            let first = try r.readLength("first page")
            return first..<first + Int(try r.read("count", as: UInt32.self))
        }
        pages = StoredPages(
            pageByteCount: pageByteCount, pages: count, runs: runs, bytes: Array(payload.readableBytesView), next: next)
        // Neither a product below nor a sum over all stores of a backup can overflow.
        let whole = count.multipliedReportingOverflow(by: pageByteCount)
        guard !whole.overflow, whole.partialValue <= WireReader.lengthMax else {
            throw reader.malformed(
                "has a store of \(count) pages of \(pageByteCount) bytes, but the limit is \(WireReader.lengthMax) "
                    + "bytes")
        }
        var end = 0
        for run in runs {
            guard run.lowerBound >= end, !run.isEmpty, run.upperBound <= next else {
                throw reader.malformed("has pages \(run) out of order or beyond \(next)")
            }
            end = run.upperBound
        }
        guard next <= count, runs.reduce(0, { $0 + $1.count }) * pageByteCount == payload.readableBytes else {
            throw reader.malformed("has \(payload.readableBytes) bytes, which do not match its runs of pages")
        }
    }

    package func encodeBody(to writer: inout WireWriter) -> [ByteBuffer] {
        writer.write(UInt32(pages.pageByteCount))
        writer.write(UInt64(pages.pages))
        writer.write(UInt64(pages.next))
        writer.write(pages.runs) {
            $0.write(UInt64($1.lowerBound))
            $0.write(UInt32($1.count))
        }
        return [ByteBuffer(bytes: pages.bytes)]
    }

    package var payloadByteCount: Int { pages.bytes.count }
}

/// Drops a held store; succeeds if there is none.
package struct EndCopy: Request, WireFields {
    package static let type = FrameType(request: 0x0302, "end copy")
    package typealias Reply = Done

    package var number: UInt64

    package init(number: UInt64) { self.number = number }

    package init(from reader: inout WireReader) throws(ServiceError) { number = try reader.read("number") }
    package func encode(to writer: inout WireWriter) { writer.write(number) }
}
