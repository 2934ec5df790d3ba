// SPDX-License-Identifier: Apache-2.0

/// A name as a key: names are equal if their UTF-8 bytes are.
///
/// `String`'s equality is Unicode's canonical equivalence: `é` as one scalar equals `e` with an accent. Clients in
/// other languages, the file system and the wire compare bytes, so two of their sequences would be the same one here.
package struct NameKey: Hashable, Sendable {
    package let name: String

    package init(_ name: String) { self.name = name }

    package static func == (a: NameKey, b: NameKey) -> Bool { a.name.utf8.elementsEqual(b.name.utf8) }

    package func hash(into hasher: inout Hasher) {
        var name = name
        name.withUTF8 { hasher.combine(bytes: UnsafeRawBufferPointer($0)) }
    }
}
