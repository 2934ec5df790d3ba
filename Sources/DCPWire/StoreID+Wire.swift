// SPDX-License-Identifier: Apache-2.0

package import DCPCore

/// Two numbers, the higher first.
extension StoreID {
    package init(from reader: inout WireReader) throws(ServiceError) {
        self.init(high: try reader.read("store"), low: try reader.read("store"))
    }

    package func encode(to writer: inout WireWriter) {
        writer.write(high)
        writer.write(low)
    }
}
