// SPDX-License-Identifier: Apache-2.0

public import DCPCore

/// The first frame in each direction: the sender and its layout.
///
/// The accepting side answers with a `welcome` that describes itself, or with a `failure` that names both values.
/// Nothing else is read before.
public struct Hello: Hashable, Sendable {
    public enum Role: UInt8, Sendable, CustomStringConvertible {
        case client = 1
        case rank = 2
        case coordinator = 3

        public var description: String {
            switch self {
            case .client: "a client"
            case .rank: "a rank"
            case .coordinator: "the coordinator"
            }
        }
    }

    public var role: Role
    /// Which rank, when the role is `rank`.
    public var rank: RankIndex?
    /// The sender's layout of the cluster; nil from a client, which uses the cluster's.
    public var fingerprint: Fingerprint?
    /// The sender's release, for logs and messages.
    public var release: String
    /// Optional features of the sender.
    public var features: Features

    /// Unknown features are kept and ignored.
    public struct Features: OptionSet, Hashable, Sendable {
        public let rawValue: UInt32

        public init(rawValue: UInt32) { self.rawValue = rawValue }

        /// Payloads may be in shared memory, if it can be passed.
        public static let sharedMemory = Features(rawValue: 1)
    }

    public struct Fingerprint: Hashable, Sendable {
        public var value: UInt64
        public var text: String

        public init(_ fingerprint: LayoutFingerprint) {
            value = fingerprint.value
            text = fingerprint.text
        }

        init(value: UInt64, text: String) {
            self.value = value
            self.text = text
        }
    }

    public init(
        role: Role, rank: RankIndex? = nil, fingerprint: LayoutFingerprint?, release: String = Release.current,
        features: Features = []
    ) {
        self.role = role
        self.rank = rank
        self.fingerprint = fingerprint.map { Fingerprint($0) }
        self.release = release
        self.features = features
    }

    public var sender: String { rank.map { "\($0)" } ?? "\(role)" }

    /// Refuses a peer whose layout differs.
    /// - Throws: `.incompatible`, naming both layouts.
    public func check(against own: LayoutFingerprint) throws(ServiceError) {
        if role == .client && fingerprint == nil { return }
        guard let fingerprint else {
            throw ServiceError(.protocolViolation, "\(sender) did not state its layout, as every daemon must.")
        }
        guard fingerprint.value != own.value else { return }
        throw ServiceError(
            .incompatible,
            "\(sender) has the layout `\(fingerprint.text)`, but this daemon has `\(own.text)`; start both with the "
                + "same cluster shape.")
    }

    package init(from reader: inout WireReader) throws(ServiceError) {
        role = try reader.readCase("role")
        let index: UInt16 = try reader.read("rank")
        rank = index == FrameHeader.noSender ? nil : RankIndex(index)
        let value: UInt64 = try reader.read("fingerprint")
        let text = try reader.readString("layout")
        fingerprint = text.isEmpty ? nil : Fingerprint(value: value, text: text)
        release = try reader.readString("release")
        features = Features(rawValue: try reader.read("features"))
        guard (role == .rank) == (rank != nil) else {
            throw reader.malformed("is from \(role) but has the rank index \(index)")
        }
    }

    package func encode(to writer: inout WireWriter) {
        writer.write(role.rawValue)
        writer.write(rank?.value ?? FrameHeader.noSender)
        writer.write(fingerprint?.value ?? 0)
        writer.write(fingerprint?.text ?? "")
        writer.write(release)
        writer.write(features.rawValue)
    }
}

/// This release's number, shown by `--version` and exchanged in every hello.
public enum Release {
    public static let current = "0.1.0"
}

extension ServiceError {
    package init(from reader: inout WireReader) throws(ServiceError) {
        let code = Code(rawValue: try reader.read("code"))
        let index: UInt16 = try reader.read("rank")
        let rank = index == FrameHeader.noSender ? nil : RankIndex(index)
        self.init(code, try reader.readString("message"), rank: rank)
    }

    package func encode(to writer: inout WireWriter) {
        writer.write(code.rawValue)
        writer.write(rank?.value ?? FrameHeader.noSender)
        writer.write(message)
    }
}
