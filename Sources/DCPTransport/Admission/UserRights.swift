// SPDX-License-Identifier: Apache-2.0

public import DCPCore

/// The rights of users at a Unix socket, from the key `rights`: `1000=use,1001=read,*=read`.
public struct UserRights: Hashable, Sendable {
    private var byUser: [UInt32: ClientRight] = [:]
    /// The right of users who are not named.
    private var others = ClientRight.administer

    /// Every user who may connect may do everything.
    public init() {}

    /// - Throws: `.invalidConfiguration` with the invalid part.
    public init(_ text: String) throws(ServiceError) {
        guard !text.isEmpty else { return }
        var namesOthers = false
        for part in text.split(separator: ",", omittingEmptySubsequences: false) {
            let sides = part.drop { $0 == " " }.split(separator: "=", omittingEmptySubsequences: false)
            guard sides.count == 2, let right = ClientRight(rawValue: String(sides[1])) else {
                throw Self.refusal(part)
            }
            if sides[0] == "*", !namesOthers {
                others = right
                namesOthers = true
            } else if let user = UInt32(sides[0]), "\(user)" == sides[0], byUser[user] == nil {
                byUser[user] = right
            } else {
                throw Self.refusal(part)
            }
        }
    }

    public subscript(user: UInt32) -> ClientRight { byUser[user] ?? others }

    private static func refusal(_ part: Substring) -> ServiceError {
        ServiceError(
            .invalidConfiguration,
            "`\(part)` does not grant a right to a user; write UID=RIGHT once for each user, separated by commas, "
                + "with `*` for all others and read, use or administer as the right, as in 1000=use,*=read.")
    }
}
