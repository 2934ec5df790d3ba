package import DCPCore

/// Where one process takes the descriptor of memory from another of its host: a connection carries bytes only.
public struct MemoryAddress: Hashable, Sendable {
    /// Of a socket in the directory of the one that the connection came over.
    public var name: String
    /// What comes there without it is thrown away: who knows it has been told over the connection.
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
