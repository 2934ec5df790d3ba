// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPWire
internal import Glibc

/// The exchange with which the ends of a link share memory. Confined to the link's loop.
///
///     dialling                       accepting
///        <------ memoryRequest ------           where a descriptor is waited for
///     the descriptor, beside the link
///        ------- memorySent -------->           checked, and mapped
///        <------ memoryTaken --------
///
/// From `memoryTaken` on each end may name payloads in memory; until then, and permanently if any of this fails,
/// payloads go with their frames.
final class LinkMemory {
    private enum State {
        case none
        /// The accepting end's: waiting for a descriptor.
        case requested
        /// The dialling end's: memory that the other end may not have mapped yet.
        case sent(SharedRings)
        case shared(SharedRings)
        case failed
    }

    private let passage: any MemoryPassage
    private let end: SharedRings.End
    private let settings: MemorySettings
    private var state = State.none

    init(_ passage: any MemoryPassage, at end: SharedRings.End, _ settings: MemorySettings) {
        self.passage = passage
        self.end = end
        self.settings = settings
    }

    /// nil until both ends have it.
    var rings: SharedRings? {
        if case .shared(let rings) = state { return rings }
        return nil
    }

    /// Both sides know each other.
    /// - Returns: the message for the other end.
    /// - Throws: if no memory can be shared. The link stays open.
    func begin(with peer: Hello) throws(ServiceError) -> Message? {
        guard end == .accepting, peer.role == .rank, peer.features.contains(.sharedMemory) else { return nil }
        state = .requested
        return .memoryRequest(try ended { () throws(ServiceError) in try passage.open() })
    }

    /// - Returns: the message for the other end.
    /// - Throws: if no memory can be shared. The link stays open, except after a `.protocolViolation`.
    func receive(_ message: Message) throws(ServiceError) -> Message? {
        switch (message, state) {
        case (.memoryRequest(let address), .none) where end == .dialling:
            state = .sent(try ended { () throws(ServiceError) in try send(to: address) })
            return .memorySent
        case (.memorySent, .requested):
            state = .shared(try ended { () throws(ServiceError) in try take() })
            return .memoryTaken
        case (.memoryTaken, .sent(let rings)):
            state = .shared(rings)
            return nil
        default:
            throw ServiceError(
                .protocolViolation, "An unexpected \(message.type) frame came; the peer has a bug.")
        }
    }

    private func send(to address: MemoryAddress) throws(ServiceError) -> SharedRings {
        let (rings, descriptor) = try SharedRings.create(at: end, settings)
        defer { close(descriptor) }
        try passage.send(descriptor, to: address)
        return rings
    }

    private func take() throws(ServiceError) -> SharedRings {
        let descriptor = try passage.receive()
        defer { close(descriptor) }
        return try SharedRings(descriptor, at: end, settings)
    }

    private func ended<Value>(_ body: () throws(ServiceError) -> Value) throws(ServiceError) -> Value {
        do throws(ServiceError) {
            return try body()
        } catch {
            state = .failed
            throw error
        }
    }
}
