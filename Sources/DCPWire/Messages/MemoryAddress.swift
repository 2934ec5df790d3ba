// SPDX-License-Identifier: Apache-2.0

package import DCPCore

/// The address at which a process receives the descriptor of shared memory from another on its host, because a
/// connection carries only bytes.
public struct MemoryAddress: Hashable, Sendable {
    /// The name of a socket in the directory of the listening socket.
    public var name: String
    /// Datagrams without this token are dropped; only the peer on the connection knows it.
    public var token: Token

    public struct Token: Hashable, Sendable {
        public var high: UInt64
        public var low: UInt64

        public init(high: UInt64, low: UInt64) {
            self.high = high
            self.low = low
        }
    }

    /// As many as a path of a socket has.
    public static let nameByteCountMax = 107

    public init(name: String, token: Token) {
        self.name = name
        self.token = token
    }
}

extension MemoryAddress: WireFields {
    package init(from reader: inout WireReader) throws(ServiceError) {
        name = try reader.readString("name")
        token = Token(high: try reader.read("token"), low: try reader.read("token"))
        guard (1...Self.nameByteCountMax).contains(name.utf8.count), !name.utf8.contains(0),
            !name.utf8.contains(UInt8(ascii: "/"))
        else {
            throw reader.malformed(
                "names a socket with \(name.utf8.count) bytes; a name has 1 to \(Self.nameByteCountMax) bytes, none "
                    + "of them 0 or /"
            )
        }
    }

    package func encode(to writer: inout WireWriter) {
        writer.write(name)
        writer.write(token.high)
        writer.write(token.low)
    }
}
