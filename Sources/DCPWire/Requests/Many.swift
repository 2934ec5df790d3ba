// SPDX-License-Identifier: Apache-2.0

package import DCPCore

/// An item of a request; each item is answered independently.
package protocol RequestItem: WireFields, Hashable {
    associatedtype Answer: WireFields, Hashable
    /// Of a request for one or many of them.
    static var type: FrameType { get }
    static var right: ClientRight { get }
    /// The number of items.
    static var itemsMax: Int { get }
}

extension RequestItem {
    package static var itemsMax: Int { 1024 }
    package static var right: ClientRight { .administer }
}

/// A request with one or more items. A refused item does not undo the others.
package struct Many<Item: RequestItem>: Request, WireFields, Hashable {
    package static var type: FrameType { Item.type }
    package static var right: ClientRight { Item.right }
    package var items: [Item]

    package init(_ items: [Item]) { self.items = items }

    package init(from reader: inout WireReader) throws(ServiceError) {
        items = try reader.readArray("items", byteCountMin: 1, countMax: Item.itemsMax) {
            r throws(ServiceError) in try Item(from: &r)
        }
    }

    package func encode(to writer: inout WireWriter) { items.encode(to: &writer) }

    /// One answer for each item, in order.
    package struct Reply: WireFields, Hashable {
        package var answers: [Result<Item.Answer, ServiceError>]

        package init(_ answers: [Result<Item.Answer, ServiceError>]) { self.answers = answers }

        package init(from reader: inout WireReader) throws(ServiceError) {
            answers = try reader.readArray("answers", byteCountMin: 1, countMax: Item.itemsMax) {
                r throws(ServiceError) in try Result(from: &r)
            }
        }

        package func encode(to writer: inout WireWriter) { answers.encode(to: &writer) }
    }
}
