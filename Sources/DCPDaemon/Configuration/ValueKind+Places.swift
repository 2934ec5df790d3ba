// SPDX-License-Identifier: Apache-2.0

internal import DCPCoordinator
internal import DCPCore
internal import DCPTransport

extension ValueKind where Value == Endpoint {
    static var endpoint: Self {
        ValueKind(
            placeholder: "endpoint", example: "unix:/run/dcp/elsewhere.sock", domain: "unix:PATH or tcp:HOST:PORT"
        ) { text throws(ValueRefusal) in
            do throws(ServiceError) { return try Endpoint(text) } catch { throw ValueRefusal(error.message) }
        }
    }
}

extension ValueKind where Value == HTTPAddress? {
    /// Where HTTP is answered; `off` is nil.
    static var httpAddress: Self {
        ValueKind(placeholder: "address", example: "127.0.0.1:9470", domain: "IP:PORT, unix:PATH or off") {
            text throws(ValueRefusal) in
            if let refusal = HTTPAddress.refusal(text) { throw ValueRefusal(refusal) }
            return HTTPAddress(text)
        }
    }
}

extension ValueKind where Value == String {
    static var path: Self {
        ValueKind(placeholder: "path", example: "/var/lib/dcp/elsewhere", domain: "a path") {
            text throws(ValueRefusal) in
            guard !text.isEmpty, !text.utf8.contains(0) else { throw ValueRefusal("`\(text)` is not a path.") }
            return text
        }
    }
}

extension ValueKind where Value == Set<UInt32> {
    /// Numbers of users or groups, with commas between; none is an empty text.
    static var ids: Self {
        ValueKind(placeholder: "ids", example: "1000,1001", domain: "numbers with commas between") {
            text throws(ValueRefusal) in
            var ids: Set<UInt32> = []
            for part in parts(text) {
                guard let id = UInt32(part), !part.hasPrefix("+") else {
                    throw ValueRefusal(
                        "`\(part)` is not a user's or group's number; write numbers with commas between (id -u NAME, getent "
                            + "group NAME).")
                }
                ids.insert(id)
            }
            return ids
        }
    }
}

extension ValueKind where Value == UserRights {
    /// Users with what they may do.
    static var rights: Self {
        ValueKind(
            placeholder: "uid=right", example: "1000=use,*=read",
            domain: "UID=read, UID=use or UID=administer, with commas between; `*` for all other users"
        ) { text throws(ValueRefusal) in
            do throws(ServiceError) { return try UserRights(text) } catch { throw ValueRefusal(error.message) }
        }
    }
}

/// What is given up of a rank's store.
enum LossForm: String, Sendable {
    case store = "STORE"
    case change = "CHANGE"

    fileprivate var example: String {
        switch self {
        case .store: "2:00112233445566778899aabbccddeeff"
        case .change: "2:4711"
        }
    }

    fileprivate func loss(_ text: String) -> RankLoss? {
        let sides = text.split(separator: ":", omittingEmptySubsequences: false)
        guard sides.count == 2, let rank = UInt16(sides[0]), "\(rank)" == sides[0] else { return nil }
        let loss: StoreLoss? =
            switch self {
            case .store: StoreID(sides[1]).map { .store($0) }
            case .change: UInt64(sides[1]).map { .changes($0) }
            }
        return loss.map { RankLoss(RankIndex(rank), $0) }
    }
}

extension ValueKind where Value == Set<RankLoss> {
    /// Ranks, each with what is lost of its store.
    static func losses(_ form: LossForm) -> Self {
        ValueKind(
            placeholder: "rank:\(form.rawValue.lowercased())", example: form.example,
            domain: "RANK:\(form.rawValue), with commas between"
        ) { text throws(ValueRefusal) in
            var losses: Set<RankLoss> = []
            for part in parts(text) {
                guard let loss = form.loss(part) else {
                    throw ValueRefusal(
                        "`\(part)` is no rank with its lost \(form.rawValue.lowercased()); write RANK:\(form.rawValue), with "
                            + "commas between, as `dcpctl store list` shows them.")
                }
                losses.insert(loss)
            }
            return losses
        }
    }
}

private func parts(_ text: String) -> [String] {
    text.split(separator: ",", omittingEmptySubsequences: !text.contains(",")).map { String($0.drop { $0 == " " }) }
}
