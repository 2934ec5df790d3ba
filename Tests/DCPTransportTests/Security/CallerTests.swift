// SPDX-License-Identifier: Apache-2.0

import DCPCore
import DCPTransport
import Testing

@Suite("The identity of a client")
struct CallerTests {
    @Test("a certificate's most privileged role counts; a rank's may read, the coordinator's may do everything")
    func certificates() {
        func caller(_ roles: CertificateRole...) -> Caller {
            TLSIdentity(roles: Set(roles), notBefore: 0, notAfter: .max).caller
        }
        #expect(caller(.client("a")) == Caller(identity: "client:a", right: .administer))
        #expect(caller(.client("a", .read), .client("b", .use)) == Caller(identity: "client:b", right: .use))
        #expect(caller(.client("b", .use), .client("a", .use)) == Caller(identity: "client:a", right: .use))
        #expect(caller(.rank(RankIndex(3))) == Caller(identity: "rank:3", right: .read))
        #expect(caller(.coordinator).right == .administer)
        #expect(caller().right == .read)
    }

    @Test("users have the right of their line, others that of `*`, root and the daemon's own user all of them")
    func users() throws {
        func right(_ user: UInt32, _ text: String) throws -> ClientRight {
            let access = UnixAccess(users: [1000, 1001], groups: [], rights: try UserRights(text), own: 998)
            return access.caller(PeerCredentials(user: user, group: user, supplementaryGroups: [])).right
        }
        let text = "1000=use, *=read,998=read"
        #expect(try [1000, 1001, 0, 998].map { try right($0, text) } == [.use, .read, .administer, .administer])
        #expect(try [1000, 1001].map { try right($0, "") } == [.administer, .administer])
        #expect(try right(1001, "1000=read") == .administer)
    }

    @Test(
        "an entry that gives no user a right is refused with the part that is wrong",
        arguments: [
            "1000", "1000=", "1000=write", "=read", "+1=read", "01=read", "1000=use,1000=use", "*=read,*=administer",
            "1000=use,",
            "1000=use=read",
        ])
    func malformed(text: String) {
        do throws(ServiceError) {
            _ = try UserRights(text)
            Issue.record("`\(text)` was taken")
        } catch {
            #expect(error.code == .invalidConfiguration && error.message.contains("UID=RIGHT"))
        }
    }
}
