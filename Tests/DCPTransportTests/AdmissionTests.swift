// SPDX-License-Identifier: Apache-2.0

import DCPCore
import DCPTestKit
import DCPTransport
import Testing

@Suite("Admission")
struct AdmissionTests {
    private typealias Peer = Admission.Peer

    @Test("connections are limited for each peer, for unauthenticated peers, and in total")
    func limits() {
        var admission = Admission(
            limits: AdmissionLimits(connectionsMax: 5, unauthenticatedMax: 4, unauthenticatedPerPeerMax: 2))
        let (a, b, c) = (Peer.address("10.0.0.1"), Peer.user(7), Peer.address("10.0.0.2"))
        #expect([a, a].allSatisfy { admission.enter($0) == nil })
        let refusal = admission.enter(a)
        #expect(refusal?.cause == .tooManyOfPeer)
        #expect(refusal?.error.message.contains("10.0.0.1") == true && refusal?.error.isRetryable == true)
        #expect(refusal?.error.message.contains("connections-per-peer") == true)
        #expect([b, b].allSatisfy { admission.enter($0) == nil })
        #expect(admission.enter(c)?.cause == .tooManyUnauthenticated)
        // Known peers make room for others, up to the last place.
        admission.authenticated(a)
        #expect(admission.enter(c) == nil)
        #expect(admission.enter(c)?.cause == .tooMany)
        admission.leave(b, wasAuthenticated: false)
        #expect(admission.enter(a) == nil)
        #expect(admission.connections == 5)
    }

    @Test("however connections come, say hello and go, the places add up")
    func placesAddUp() {
        var random = SeededGenerator.ofRun(salt: 4100)
        let limits = AdmissionLimits(connectionsMax: 12, unauthenticatedMax: 8, unauthenticatedPerPeerMax: 3)
        var admission = Admission(limits: limits)
        var open: [(peer: Peer, isKnown: Bool)] = []
        func waiting(_ peer: Peer? = nil) -> Int {
            open.count { !$0.isKnown && (peer == nil || $0.peer == peer) }
        }
        for _ in 0..<5000 {
            switch Int.random(in: 0..<5, using: &random) {
            case 0..<3:
                let peer = Peer.user(UInt32.random(in: 0..<5, using: &random))
                let expected: RefusalCause? =
                    open.count == limits.connectionsMax
                    ? .tooMany
                    : waiting(peer) == limits.unauthenticatedPerPeerMax
                        ? .tooManyOfPeer : waiting() == limits.unauthenticatedMax ? .tooManyUnauthenticated : nil
                let refusal = admission.enter(peer)
                #expect(refusal?.cause == expected, "DCP_SEED=\(SeededGenerator.seed)")
                if refusal == nil { open.append((peer, false)) }
            case 3:
                guard let index = open.indices.filter({ !open[$0].isKnown }).randomElement(using: &random) else {
                    break
                }
                open[index].isKnown = true
                admission.authenticated(open[index].peer)
            default:
                guard let index = open.indices.randomElement(using: &random) else { break }
                let gone = open.remove(at: index)
                admission.leave(gone.peer, wasAuthenticated: gone.isKnown)
            }
        }
        for gone in open { admission.leave(gone.peer, wasAuthenticated: gone.isKnown) }
        #expect(admission.connections == 0)
    }

    @Test("Unix sockets: only root, the daemon's user, named users, and members of named groups")
    func unixAccess() {
        let access = UnixAccess(users: [1000], groups: [50], own: 998)
        func allows(_ user: UInt32, _ group: UInt32 = 65534, _ more: Set<UInt32> = []) -> Bool {
            access.refusal(of: PeerCredentials(user: user, group: group, supplementaryGroups: more)) == nil
        }
        #expect(allows(0) && allows(998) && allows(1000) && allows(1001, 50) && allows(1001, 9, [8, 50]))
        #expect(!allows(1001) && !allows(50) && !allows(1001, 9, [8]) && !allows(65534))
        #expect(access.namesOthers && access.summary == "uids 0, 998, 1000 and gids 50")
        #expect(!UnixAccess(users: [0, 998], groups: [], own: 998).namesOthers)
        let refusal = access.refusal(of: PeerCredentials(user: 1001, group: 9, supplementaryGroups: []))
        #expect(refusal?.cause == .wrongUser && refusal?.error.message.contains("uid 1001 (gid 9)") == true)
        #expect(refusal?.error.message.contains("allowed-uids") == true)
    }
}
