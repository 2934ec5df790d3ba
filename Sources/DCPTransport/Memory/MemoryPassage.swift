// SPDX-License-Identifier: Apache-2.0

internal import CLinux
public import DCPCore
public import DCPWire
internal import Glibc

/// Passes a descriptor from one end of a connection to the other, because the connection carries only bytes. One for
/// each end.
public protocol MemoryPassage: AnyObject {
    /// Starts waiting for a descriptor, and returns the address.
    func open() throws(ServiceError) -> MemoryAddress

    /// Sends a descriptor, which the caller keeps, to the address where the other end waits.
    func send(_ descriptor: CInt, to address: MemoryAddress) throws(ServiceError)

    /// The received descriptor, which the caller owns. Stops waiting.
    func receive() throws(ServiceError) -> CInt
}

/// Passes descriptors in datagrams to a socket beside the listening one.
///
/// The connection itself could carry a descriptor, but a reader that does not request descriptors, such as NIO, loses
/// it. A datagram arrives as soon as it is sent, so neither end waits. Its socket has a name in that directory, which
/// both ends reach, and not in the abstract namespace, which belongs to a network namespace: our units may have one
/// each. Its token proves that the sender is the peer of the connection.
package final class SocketPassage: MemoryPassage {
    private let listener: String
    private let mode: mode_t
    private var waiting: (socket: CInt, path: String, token: MemoryAddress.Token)?

    /// Part of every name, after that of the listening socket; the rest is random.
    private static let mark = ".memory-"

    /// - Parameters:
    ///   - listener: path of the listening socket.
    ///   - mode: the mode of the socket that waits for the descriptor.
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

    /// The other end chooses the socket's name, but neither its directory nor a name of another form.
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

    /// Removes sockets left by killed processes that listened at the same path. The current listener owns the path.
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
