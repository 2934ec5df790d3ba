// SPDX-License-Identifier: Apache-2.0

public import DCPCore
public import DCPTransport
public import DCPWire
internal import Glibc
public import NIOCore

/// The configuration of a rank. Every limit has a default.
public struct RankConfiguration: Sendable {
    public var rank: RankIndex
    public var listen: Endpoint
    /// The address that the rank advertises; `listen` unless addresses are translated.
    public var advertise: Endpoint?
    public var coordinator: Endpoint
    /// Compute threads.
    public var threads: Int
    /// The estimated computing time per turn of the event loop, for which other links wait. Zero leaves everything to
    /// the threads.
    public var loopWorkMax = TimeAmount.microseconds(600)
    /// Steps in flight at once. One more is answered `overloaded`.
    public var stepsInFlightMax = 1024
    /// Bytes that the steps in flight may hold together; a single step may always run.
    public var stepByteCountMax = 4 << 30
    /// The longest a step may take, whatever the client asks for.
    public var stepTimeoutMax = TimeAmount.seconds(300)
    /// Bytes of peers' messages kept for steps whose request has not come yet.
    public var earlyByteCountMax = 512 << 20
    /// How long to wait before the coordinator is dialled again.
    public var redialDelay = TimeAmount.milliseconds(250)
    /// How long a graceful stop waits for steps and commits in flight.
    public var drainTimeout = TimeAmount.seconds(20)
    /// How long a client may be gone before its uncommitted tokens are rolled back.
    public var claimTimeout = TimeAmount.seconds(15)
    /// How long an idle sequence stays in RAM; nil for no limit.
    public var memoryIdle: TimeAmount? = .seconds(60)
    /// Which process this is: another with the same store is a copy of it.
    public var incarnation = UInt64.random(in: 1 ... .max)
    /// The same, for people.
    public var holder = Self.thisProcess
    public var link = LinkSettings()
    /// Inspects the host for host reports. Called on a separate thread, may block; nil without a host.
    public var hostReport: (@Sendable () -> HostReport)?
    /// Runs what reads a held store; NIO's threads unless given.
    package var copyWork: StoreCopies.DiskWork?
    /// Sequences that a turn of the loop tells the coordinator of in a join.
    package var heldPageCount = HeldSequences.countMax

    public init(rank: RankIndex, listen: Endpoint, advertise: Endpoint? = nil, coordinator: Endpoint, threads: Int) {
        self.rank = rank
        self.listen = listen
        self.advertise = advertise
        self.coordinator = coordinator
        self.threads = threads
    }

    private static var thisProcess: String {
        var name = [CChar](repeating: 0, count: 256)
        let host = gethostname(&name, name.count - 1) == 0 ? name.prefix { $0 != 0 } : []
        return "process \(getpid()) on \(String(decoding: host.map { UInt8(bitPattern: $0) }, as: UTF8.self))"
    }
}
