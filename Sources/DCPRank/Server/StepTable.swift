// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPWire
internal import NIOCore

/// The steps in flight of one rank, and the frames that came for steps before their request did.
///
/// A peer's Q, partial or verdict may arrive before the client's own message: such frames wait here, bounded in bytes
/// and time. Frames for a step that is over are dropped; its tag is remembered for a while to tell the two apart.
struct StepTable {
    private struct Early {
        var frames: [(frame: Frame, member: Int)] = []
        var byteCount = 0
        var expires: NIODeadline
    }

    private(set) var executions: [Tag: StepExecution] = [:]
    private var nextOrdinal: UInt64 = 0
    private var early: [Tag: Early] = [:]
    private var earlyByteCount = 0
    private var over = RecentTags(capacity: Self.recentTagsMax)
    private var answered = RecentTags(capacity: Self.recentTagsMax)
    private static let recentTagsMax = 8192
    private let earlyByteCountMax: Int
    /// What the steps in flight hold.
    private(set) var bytes: ByteBudget

    init(earlyByteCountMax: Int, byteCountMax: Int) {
        self.earlyByteCountMax = earlyByteCountMax
        bytes = ByteBudget(byteCountMax: byteCountMax)
    }

    /// Some of the steps, in the order of arrival, so that notices to several steps have the same order in every run.
    func inOrder(_ isIncluded: (StepExecution) -> Bool) -> [StepExecution] {
        executions.values.filter(isIncluded).sorted { $0.ordinal < $1.ordinal }
    }

    subscript(tag: Tag) -> StepExecution? { executions[tag] }

    /// Takes a step in; returns the frames that were waiting for it, in the order they came.
    mutating func insert(_ execution: StepExecution) -> [(frame: Frame, member: Int)] {
        precondition(executions[execution.tag] == nil)
        executions[execution.tag] = execution
        bytes.take(execution.byteCount)
        execution.ordinal = nextOrdinal
        nextOrdinal += 1
        over.remove(execution.tag)
        guard let waiting = early.removeValue(forKey: execution.tag) else { return [] }
        earlyByteCount -= waiting.byteCount
        return waiting.frames
    }

    mutating func remove(_ tag: Tag) {
        guard let execution = executions.removeValue(forKey: tag) else { preconditionFailure("a step is removed once") }
        bytes.giveBack(execution.byteCount)
        // A step that was answered had all that peers send for it: what comes under its tag now is of a repeat, and is kept.
        if execution.isAnswered { answered.insert(tag) } else { over.insert(tag) }
    }

    /// Remembers that a step was refused before its request came or could be taken: whatever peers sent for it is
    /// dropped, and its request, if it comes, meets the same verdict.
    mutating func refuse(_ tag: Tag, _ verdict: ServiceError) {
        dropEarly(tag)
        over.insert(tag, verdict)
    }

    /// Whether a step of this tag, the attempt included, is over; the last thousands are remembered.
    func isOver(_ tag: Tag) -> Bool { over.contains(tag) || answered.contains(tag) }

    /// Why a step is refused whose request has not come yet.
    func verdict(for tag: Tag) -> ServiceError? { over.verdict(for: tag) }

    private mutating func dropEarly(_ tag: Tag) {
        if let waiting = early.removeValue(forKey: tag) { earlyByteCount -= waiting.byteCount }
    }

    /// Keeps a frame for a step that has not come yet. Returns false when there is no room.
    mutating func keep(_ frame: Frame, from member: Int, until expires: NIODeadline) -> Bool {
        guard !over.contains(frame.tag) else { return true }
        if case .abort(let verdict) = frame.message {
            refuse(frame.tag, verdict)
            return true
        }
        let byteCount = FrameHeader.byteCount + frame.message.payloadByteCount
        guard earlyByteCount + byteCount <= earlyByteCountMax else { return false }
        early[frame.tag, default: Early(expires: expires)].frames.append((frame, member))
        early[frame.tag]!.byteCount += byteCount
        earlyByteCount += byteCount
        return true
    }

    /// Drops frames whose step never came.
    mutating func expireEarly(now: NIODeadline) {
        for (tag, waiting) in early where waiting.expires <= now {
            dropEarly(tag)
            over.insert(tag)
        }
    }

    /// A new epoch: nothing of the old one is waited for.
    mutating func dropEarly() {
        early = [:]
        earlyByteCount = 0
        over = RecentTags(capacity: Self.recentTagsMax)
        answered = RecentTags(capacity: Self.recentTagsMax)
    }
}

/// The last tags that were inserted, up to a number, with the verdict of those that were refused.
private struct RecentTags {
    private var ring: [Tag] = []
    private var next = 0
    private var members: [Tag: ServiceError?] = [:]
    private let capacity: Int

    init(capacity: Int) { self.capacity = capacity }

    func contains(_ tag: Tag) -> Bool { members[tag] != nil }

    func verdict(for tag: Tag) -> ServiceError? { members[tag] ?? nil }

    mutating func insert(_ tag: Tag, _ verdict: ServiceError? = nil) {
        guard members.updateValue(verdict, forKey: tag) == nil else { return }
        if ring.count < capacity {
            ring.append(tag)
        } else {
            members[ring[next]] = nil
            ring[next] = tag
            next = (next + 1) % capacity
        }
    }

    /// The ring keeps the slot: when it is overwritten, a tag that was inserted again is forgotten early, which costs
    /// at most one kept frame.
    mutating func remove(_ tag: Tag) { members[tag] = nil }
}
