// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPWire
internal import NIOCore

/// Payloads beside the connection.
extension Link {
    /// Whether payloads go through shared memory.
    package var sharesMemory: Bool { memory?.rings != nil }

    /// Payloads sent through it from this side.
    package var memoryTraffic: SharedRings.Traffic { memory?.rings?.traffic ?? SharedRings.Traffic() }

    /// Both sides know each other.
    func requestMemory(of peer: Hello) {
        guard let memory else { return }
        do throws(ServiceError) {
            if let message = try memory.begin(with: peer) { write(.greeting(message)) }
        } catch {
            delegate?.link(self, sharesMemory: .failure(error))
        }
    }

    /// - Returns: whether the link handled the message; otherwise it is for the owner.
    /// - Throws: `.protocolViolation` for messages that the peer may not send.
    func takeMemory(_ message: Message) throws(ServiceError) -> Bool {
        guard let memory else { return false }
        switch message {
        case .memoryRequest, .memorySent, .memoryTaken: break
        default: return false
        }
        do throws(ServiceError) {
            if let reply = try memory.receive(message) { write(.greeting(reply)) }
        } catch {
            guard error.code != .protocolViolation else { throw error }
            delegate?.link(self, sharesMemory: .failure(error))
        }
        if let rings = memory.rings {
            inbound.memory = rings
            delegate?.link(self, sharesMemory: .success(()))
        }
        return true
    }

    /// Writes a payload to shared memory, if there is any, for the next frame.
    /// - Returns: its place there; nil if it goes with its frame.
    func memoryPlace(for payload: [ByteBuffer]) throws(ServiceError) -> MemoryPlace? {
        guard let rings = memory?.rings, !payload.isEmpty else { return nil }
        do throws(ServiceError) {
            return try rings.put(payload)
        } catch {
            refuse(error)
            throw ServiceError(.rankUnavailable, "The connection was closed: \(error.message)")
        }
    }
}
