internal import DCPCoordinator
internal import DCPCore
internal import DCPTransport

/// What a value may be. A flag, a variable and a line of the file go through the same check.
package enum ValueKind: Sendable {
    case integer(ClosedRange<Int>, unit: String)
    case seconds(ClosedRange<Double>)
    case secondsOrOff(ClosedRange<Double>)
    /// Bytes, as `ByteSize` reads them.
    case size(minimum: Int)
    case boolean
    case choice([String], noun: String)
    case endpoint
    /// Where HTTP is answered, or `off`.
    case httpAddress
    case path
    /// Numbers of users or groups, with commas between; none is an empty text.
    case ids
    /// `UserRights`: users with what they may do.
    case rights
    /// Ranks, each with what is lost of its store.
    case losses(LossForm)

    package enum LossForm: String, Sendable {
        case store = "STORE"
        case change = "CHANGE"
    }

    /// - Returns: nil for a good value, else what is wrong with it and what would be right, without a name before it.
    package func refusal(_ text: String) -> String? {
        switch self {
        case .integer(let range, let unit):
            guard let value = Int(text) else {
                return "`\(text)` is not a whole number; write one in \(range.lowerBound)...\(range.upperBound)."
            }
            guard range.contains(value) else {
                return "\(value) \(unit) are outside \(range.lowerBound)...\(range.upperBound)."
            }
        case .seconds(let range):
            // What starts with a digit: `nan` and `inf` parse as numbers too.
            guard text.first?.isNumber == true, let value = Double(text), range.contains(value) else {
                return "`\(text)` is not a number of seconds in \(range.lowerBound)...\(range.upperBound)."
            }
        case .secondsOrOff(let range):
            guard text != "off" else { return nil }
            guard text.first?.isNumber == true, let value = Double(text), range.contains(value) else {
                return "`\(text)` is neither off nor a number of seconds in \(range.lowerBound)...\(range.upperBound)."
            }
        case .size(let minimum):
            guard let size = ByteSize(text) else { return "`\(text)` is not a size; write one like 200GB or 64MiB." }
            guard size.byteCount >= minimum else {
                return "\(size.byteCount) bytes are below the smallest of \(minimum)."
            }
        case .boolean:
            guard text == "true" || text == "false" else { return "`\(text)` is neither true nor false." }
        case .choice(let values, let noun):
            guard values.contains(text) else {
                return "`\(text)` is not \(noun); use \(Self.list(values))."
            }
        case .endpoint:
            do throws(ServiceError) { _ = try Endpoint(text) } catch { return error.message }
        case .httpAddress: return HTTPAddress.refusal(text)
        case .path:
            guard !text.isEmpty, !text.utf8.contains(0) else {
                return "`\(text)` is not a path."
            }
        case .ids:
            if let wrong = Self.parts(text).first(where: { UInt32($0) == nil || $0.hasPrefix("+") }) {
                return
                    "`\(wrong)` is not a user's or group's number; write numbers with commas between (id -u NAME, getent "
                    + "group NAME)."
            }
        case .rights:
            do throws(ServiceError) { _ = try UserRights(text) } catch { return error.message }
        case .losses(let form):
            if let wrong = Self.parts(text).first(where: { Self.loss($0, form) == nil }) {
                return
                    "`\(wrong)` is no rank with its lost \(form.rawValue.lowercased()); write RANK:\(form.rawValue), with commas "
                    + "between, as `dcpctl store list` shows them."
            }
        }
        return nil
    }

    /// The losses of a good `losses` value.
    static func losses(_ text: String, _ form: LossForm) -> Set<RankLoss> { Set(parts(text).map { loss($0, form)! }) }

    private static func loss(_ text: String, _ form: LossForm) -> RankLoss? {
        let sides = text.split(separator: ":", omittingEmptySubsequences: false)
        guard sides.count == 2, let rank = UInt16(sides[0]), "\(rank)" == sides[0] else { return nil }
        let loss: StoreLoss? =
            switch form {
            case .store: StoreID(sides[1]).map { .store($0) }
            case .change: UInt64(sides[1]).map { .changes($0) }
            }
        return loss.map { RankLoss(RankIndex(rank), $0) }
    }

    private static func parts(_ text: String) -> [String] {
        text.split(separator: ",", omittingEmptySubsequences: !text.contains(",")).map {
            String($0.drop { $0 == " " })
        }
    }

    /// The numbers of a good `ids` value.
    static func ids(_ text: String) -> Set<UInt32> { Set(parts(text).map { UInt32($0)! }) }

    /// For usage lines and tables.
    package var placeholder: String {
        switch self {
        case .integer(_, let unit): unit == "GiB" || unit == "MiB" ? unit : "n"
        case .seconds: "seconds"
        case .secondsOrOff: "seconds|off"
        case .size: "size"
        case .boolean: "true|false"
        case .choice: "name"
        case .endpoint: "endpoint"
        case .httpAddress: "address"
        case .path: "path"
        case .ids: "ids"
        case .rights: "uid=right"
        case .losses(let form): "rank:\(form.rawValue.lowercased())"
        }
    }

    /// A good value, where a file shows a key without default.
    package var example: String {
        switch self {
        case .integer(let range, _): "\(range.lowerBound)"
        case .seconds(let range), .secondsOrOff(let range): "\(range.lowerBound)"
        case .size: "200GB"
        case .boolean: "false"
        case .choice(let values, _): values[0]
        case .endpoint: "unix:/run/dcp/elsewhere.sock"
        case .httpAddress: "127.0.0.1:9470"
        case .path: "/var/lib/dcp/elsewhere"
        case .ids: "1000,1001"
        case .rights: "1000=use,*=read"
        case .losses(.store): "2:00112233445566778899aabbccddeeff"
        case .losses(.change): "2:4711"
        }
    }

    /// What is allowed, for the reference.
    package var domain: String {
        switch self {
        case .integer(let range, let unit): "\(range.lowerBound) to \(range.upperBound) \(unit)"
        case .seconds(let range): "\(range.lowerBound) to \(range.upperBound) seconds"
        case .secondsOrOff(let range): "\(range.lowerBound) to \(range.upperBound) seconds, or off"
        case .size(let minimum): "a size from \(minimum) bytes on"
        case .boolean: "true or false"
        case .choice(let values, _): Self.list(values)
        case .endpoint: "unix:PATH or tcp:HOST:PORT"
        case .httpAddress: "IP:PORT, unix:PATH or off"
        case .path: "a path"
        case .ids: "numbers with commas between"
        case .rights: "UID=read, UID=use or UID=administer, with commas between; `*` for all other users"
        case .losses(let form): "RANK:\(form.rawValue), with commas between"
        }
    }

    private static func list(_ values: [String]) -> String {
        guard values.count > 1 else { return values.first ?? "" }
        return values.dropLast().joined(separator: ", ") + " or " + values.last!
    }
}
