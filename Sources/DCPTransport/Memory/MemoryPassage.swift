internal import CLinux
public import DCPCore
public import DCPWire
internal import Glibc

/// The way of a descriptor from one end of a connection to the other, which carries bytes only. One for each end.
public protocol MemoryPassage: AnyObject {
    /// Where a descriptor is waited for from now on.
    func open() throws(ServiceError) -> MemoryAddress

    /// Sends a descriptor, which stays the caller's, to where the other end waits.
    func send(_ descriptor: CInt, to address: MemoryAddress) throws(ServiceError)

    /// The descriptor that has been sent, which becomes the caller's. Nothing is waited for any more.
    func receive() throws(ServiceError) -> CInt
}

/// Datagrams to a socket beside the one that the connection came over.
///
/// The connection itself could carry a descriptor, but whoever reads it without asking for descriptors, as NIO does, loses it. A
/// datagram is there as soon as it is sent, so neither end ever waits. Its socket has a name in that directory, which both ends
/// reach, and not in the abstract namespace, which belongs to a network namespace: our units may have one each. Its token says
/// that the sender is at the other end of the connection.
package final class SocketPassage: MemoryPassage {
    private let listener: String
    private let mode: mode_t
    private var waiting: (socket: CInt, path: String, token: MemoryAddress.Token)?

    /// In every name, behind that of the listening socket; what follows is random.
    private static let mark = ".memory-"

    /// - Parameters:
    ///   - listener: path of the socket that the connection was made to.
    ///   - mode: of the socket that waits for the descriptor.
    package init(beside listener: String, mode: UInt32 = 0o600) {
        self.listener = listener
        self.mode = mode
    }

    deinit { close() }

    package func open() throws(ServiceError) -> MemoryAddress {
        close()
        var random = SystemRandomNumberGenerator()
        let path = listener + Self.mark + String(random.next() as UInt64, radix: 16)
        let token = MemoryAddress.Token(high: random.next(), low: random.next())
        waiting = (try Self.checked(dcp_passage_open(path), "be received at \(path)"), path, token)
        chmod(path, mode)
        return MemoryAddress(name: Self.split(path).name, token: token)
    }

    /// The other end names the socket, but not where it is, nor any that is not for this.
    package func send(_ descriptor: CInt, to address: MemoryAddress) throws(ServiceError) {
        guard address.name.contains(Self.mark), !address.name.contains("/") else {
            throw ServiceError(
                .protocolViolation,
                "The peer requests shared memory at \(address.name.debugDescription), which is not a valid name; the "
                    + "peer has a bug.")
        }
        let path = Self.split(listener).directory + address.name
        _ = try Self.checked(dcp_passage_send(path, address.token.bytes, descriptor), "be sent to \(path)")
    }

    package func receive() throws(ServiceError) -> CInt {
        guard let waiting else {
            throw ServiceError(.protocolViolation, "The peer sent shared memory without a request; the peer has a bug.")
        }
        defer { close() }
        return try Self.checked(dcp_passage_receive(waiting.socket, waiting.token.bytes), "be received")
    }

    private func close() {
        guard let waiting else { return }
        unlink(waiting.path)
        Glibc.close(waiting.socket)
        self.waiting = nil
    }

    /// Removes what killed processes that listened at the same path have left. Whoever listens there now owns the path.
    static func removeLeftovers(beside listener: String) {
        let (directory, name) = split(listener)
        guard let entries = opendir(directory.isEmpty ? "." : directory) else { return }
        defer { closedir(entries) }
        while let entry = readdir(entries) {
            let found = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            if found.hasPrefix(name + mark) { unlink(directory + found) }
        }
    }

    /// The directory ends with a slash, or is empty.
    private static func split(_ path: String) -> (directory: String, name: String) {
        let name = path.split(separator: "/", omittingEmptySubsequences: false).last ?? ""
        return (String(path.dropLast(name.count)), String(name))
    }

    private static func checked(_ result: CInt, _ what: String) throws(ServiceError) -> CInt {
        guard result < 0 else { return result }
        throw ServiceError(
            .unreachable, "A descriptor of shared memory could not \(what) (\(String(cString: strerror(-result)))).")
    }
}

extension MemoryAddress.Token {
    fileprivate var bytes: [UInt8] {
        withUnsafeBytes(of: (high.littleEndian, low.littleEndian)) { Array($0) }
    }
}
