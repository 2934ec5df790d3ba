// SPDX-License-Identifier: Apache-2.0

import DCPCore
import Foundation
import Glibc
import Synchronization

/// Stands before a rank's endpoint and does to its peers' frames what networks do to messages.
///
/// Frames are forwarded whole, by two blocking threads a connection. Only connections whose hello is a rank's are
/// disturbed: peers dial what the rank advertises, and so do clients, whose connections pass untouched.
final class FaultProxy: Sendable {
    enum Fault: Hashable, Sendable {
        case none
        /// One frame in so many is lost.
        case drop(oneIn: Int)
        /// One frame in so many comes twice.
        case duplicate(oneIn: Int)
        /// Each frame comes later, in order.
        case delay(microseconds: UInt32)
        /// Everything towards the rank, or from it, is lost; the other way is open.
        case cut(towardsRank: Bool)

        var name: String {
            switch self {
            case .none: "none"
            case .drop: "drop"
            case .duplicate: "duplicate"
            case .delay: "delay"
            case .cut: "cut one way"
            }
        }
    }

    private struct State {
        var fault = Fault.none
        var random: UInt64
        var disturbed = 0
    }

    private let listenPath: String
    private let targetPath: String
    private let state: Mutex<State>

    /// Frames that were lost, doubled or delayed.
    var disturbedFrames: Int { state.withLock { $0.disturbed } }

    func set(_ fault: Fault) { state.withLock { $0.fault = fault } }

    /// Listens at once, and for as long as the process lives.
    init(listen: String, target: String, seed: UInt64) throws {
        listenPath = listen
        targetPath = target
        state = Mutex(State(random: seed | 1))
        let listener = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
        let bound = withAddress(listen) { Glibc.bind(listener, $0, $1) }
        guard listener >= 0, bound == 0, Glibc.listen(listener, 64) == 0 else {
            throw SoakFailure("The proxy cannot listen at \(listen): \(String(cString: strerror(errno)))")
        }
        Thread.detachNewThread { [self] in
            while true {
                let accepted = accept(listener, nil, nil)
                if accepted >= 0 { connect(accepted) }
            }
        }
    }

    /// A socket that both directions use; closed when both have ended.
    private final class Socket: Sendable {
        let descriptor: Int32
        init(_ descriptor: Int32) { self.descriptor = descriptor }
        func end() { shutdown(descriptor, Int32(SHUT_RDWR)) }
        deinit { close(descriptor) }
    }

    private func connect(_ accepted: Int32) {
        let dialler = Socket(accepted)
        let rank = Socket(socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0))
        // The rank is down: who dialled sees the end of the connection, as it would of the rank's.
        guard withAddress(targetPath, { Glibc.connect(rank.descriptor, $0, $1) }) == 0 else { return }
        let isPeer = SharedFlag()
        Thread.detachNewThread { [self] in forward(dialler, rank, towardsRank: true, isPeer) }
        Thread.detachNewThread { [self] in forward(rank, dialler, towardsRank: false, isPeer) }
    }

    private final class SharedFlag: Sendable { let value = Atomic(false) }

    private static let headerByteCount = 64
    private static let roleOfRank: UInt8 = 2

    private func forward(_ source: Socket, _ target: Socket, towardsRank: Bool, _ isPeer: SharedFlag) {
        defer {
            source.end()
            target.end()
        }
        var isFirst = true
        while let frame = readFrame(source) {
            // The first field of a hello, which is the first frame of who dials, is the role.
            if isFirst, towardsRank, frame.count > Self.headerByteCount {
                isPeer.value.store(frame[Self.headerByteCount] == Self.roleOfRank, ordering: .relaxed)
            }
            isFirst = false
            let (copies, pause) =
                isPeer.value.load(ordering: .relaxed) ? decide(towardsRank: towardsRank) : (1, 0)
            if pause > 0 { usleep(pause) }
            for _ in 0..<copies {
                guard writeAll(frame, to: target) else { return }
            }
        }
    }

    /// How often the next frame arrives, and after how many microseconds.
    private func decide(towardsRank: Bool) -> (copies: Int, pause: UInt32) {
        state.withLock { state in
            // xorshift64: which frames are hit depends on their order in time, so this alone is not replayed.
            state.random ^= state.random << 13
            state.random ^= state.random >> 7
            state.random ^= state.random << 17
            let draw = Int(truncatingIfNeeded: state.random >> 33)
            var outcome = (copies: 1, pause: UInt32(0))
            switch state.fault {
            case .none: break
            case .drop(let oneIn): outcome.copies = draw % oneIn == 0 ? 0 : 1
            case .duplicate(let oneIn): outcome.copies = draw % oneIn == 0 ? 2 : 1
            case .delay(let microseconds): outcome.pause = microseconds
            case .cut(let way): outcome.copies = way == towardsRank ? 0 : 1
            }
            if outcome != (1, 0) { state.disturbed += 1 }
            return outcome
        }
    }

    /// nil at the end of the connection.
    private func readFrame(_ source: Socket) -> [UInt8]? {
        guard var frame = read(source, Self.headerByteCount) else { return nil }
        let counts = frame.withUnsafeBytes { header in
            // Bytes of fields and of payload, and whether that is in shared memory, little-endian: Protocol.md, the frame header.
            [40, 44, 52].map { Int(UInt32(littleEndian: header.loadUnaligned(fromByteOffset: $0, as: UInt32.self))) }
        }
        let rest = counts[0] + (counts[2] == 0 ? counts[1] : 0)
        guard let body = read(source, rest) else { return nil }
        frame += body
        return frame
    }

    private func read(_ source: Socket, _ count: Int) -> [UInt8]? {
        var bytes = [UInt8](repeating: 0, count: count)
        var done = 0
        while done < count {
            let received = bytes.withUnsafeMutableBytes {
                recv(source.descriptor, $0.baseAddress! + done, count - done, 0)
            }
            if received < 0, errno == EINTR { continue }
            guard received > 0 else { return nil }
            done += received
        }
        return bytes
    }

    private func writeAll(_ bytes: [UInt8], to target: Socket) -> Bool {
        var done = 0
        while done < bytes.count {
            let sent = bytes.withUnsafeBytes {
                send(target.descriptor, $0.baseAddress! + done, bytes.count - done, Int32(MSG_NOSIGNAL))
            }
            if sent < 0, errno == EINTR { continue }
            guard sent > 0 else { return false }
            done += sent
        }
        return true
    }
}

/// Lends a Unix socket's address.
private func withAddress<Result>(_ path: String, _ body: (UnsafePointer<sockaddr>, socklen_t) -> Result) -> Result {
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8.prefix($0.count - 1)) }
    return withUnsafePointer(to: &address) {
        $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { body($0, socklen_t(MemoryLayout<sockaddr_un>.size)) }
    }
}
