// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import Foundation
internal import Glibc

/// Messages of given sizes to a peer and back over a Unix socket, with blocking calls and nothing else: what an exchange
/// costs at least on this machine. The peer is another thread.
///
/// @unchecked Sendable: the buffers of the two ends are apart, and each is used by one thread.
final class SocketPingPong: @unchecked Sendable {
    private let messages: [(there: Int, back: Int)]
    private let near: Int32
    private let far: Int32
    private var buffer: [UInt8]

    /// - Parameter messages: of one round, the bytes of each and of its answer.
    init(_ messages: [(there: Int, back: Int)]) throws(ServiceError) {
        self.messages = messages
        var ends: [Int32] = [-1, -1]
        guard socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0, &ends) == 0 else {
            throw ServiceError(.internal, "No socket pair: \(String(cString: strerror(errno))).")
        }
        (near, far) = (ends[0], ends[1])
        let byteCountMax = messages.map { max($0.there, $0.back) }.max() ?? 0
        buffer = [UInt8](repeating: 1, count: byteCountMax)
        Thread.detachNewThread { [far, messages] in
            var buffer = [UInt8](repeating: 2, count: byteCountMax)
            // Ends when the near end is closed.
            while messages.allSatisfy({ Self.receive(far, &buffer, $0.there) && Self.send(far, buffer, $0.back) }) {}
            close(far)
        }
    }

    /// One round: each message there and back.
    func round() throws(ServiceError) {
        for message in messages {
            guard Self.send(near, buffer, message.there), Self.receive(near, &buffer, message.back) else {
                throw ServiceError(.internal, "A socket pair broke: \(String(cString: strerror(errno))).")
            }
        }
    }

    private static func send(_ descriptor: Int32, _ bytes: [UInt8], _ count: Int) -> Bool {
        bytes.withUnsafeBytes { bytes in
            var done = 0
            while done < count {
                let sent = Glibc.send(
                    descriptor, bytes.baseAddress.map { $0 + done }, count - done, Int32(MSG_NOSIGNAL))
                guard sent > 0 else { return false }
                done += sent
            }
            return true
        }
    }

    private static func receive(_ descriptor: Int32, _ bytes: inout [UInt8], _ count: Int) -> Bool {
        bytes.withUnsafeMutableBytes { bytes in
            var done = 0
            while done < count {
                let received = recv(descriptor, bytes.baseAddress.map { $0 + done }, count - done, 0)
                guard received > 0 else { return false }
                done += received
            }
            return true
        }
    }

    deinit { close(near) }
}
