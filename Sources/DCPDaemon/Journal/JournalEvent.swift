// SPDX-License-Identifier: Apache-2.0

internal import Logging

/// An event for operators: a number for `journalctl MESSAGE_ID=`, and the text that `journalctl -x` shows for it. The
/// numbers never change.
package struct JournalEvent: Hashable, Sendable {
    /// 128 bits, as `systemd-id128 new` makes them: 32 hexadecimal digits.
    package let messageID: String
    package let subject: String
    /// Its meaning and remedy, in lines of the catalog; `@FIELD@` stands for a field of the entry.
    package let explanation: String

    private init(_ messageID: String, _ subject: String, _ explanation: String) {
        self.messageID = messageID
        self.subject = subject
        self.explanation = explanation
    }

    package static let rankReady = JournalEvent(
        "dc7e849d4b584d9c8dea9c32b3ffe248", "Rank @DCP_RANK@ serves in epoch @DCP_EPOCH@",
        """
        All ranks of the cluster have registered, this one is connected to its head group, and all hold the same data.
        The rank serves steps.
        """)
    package static let epochChanged = JournalEvent(
        "36105359423240f5af455ae5a37fc5c3", "The membership has changed to epoch @DCP_EPOCH@",
        """
        A rank came back, or all ranks registered for the first time. Steps in flight are aborted, and clients send them
        again. Every sequence is cut to the length that all ranks have committed. No action is needed.

        Frequent epochs without a restart by you mean that a rank keeps failing: check the entries about lost peers, and
        the load of the machine on which that rank runs.
        """)
    package static let peerLost = JournalEvent(
        "a1886ef10423484981b0f0ea2f51f985", "The connection to rank @DCP_PEER@ is lost",
        """
        Steps that need rank @DCP_PEER@ are aborted with an error to their clients. Service resumes in a new epoch when
        the rank is back, from the tokens that every rank has committed.

        Check the rank:
            systemctl status dcp-rank@@DCP_PEER@
            journalctl -u dcp-rank@@DCP_PEER@ -e
        If the rank or its machine was restarted, no action is needed.
        """)
    package static let secondHolder = JournalEvent(
        "78cd34c6ded843fcb7ec60e6632d0de0", "Two processes have the store of rank @DCP_PEER@",
        """
        A copy of the store is in use beside the original, for example from a restored backup, a cloned machine or an
        unfinished move. The process that registered first keeps serving; the other is refused and keeps retrying. The
        entry names both.

        Stop the process that should not run, and remove its copy. If that is the first one, stop it; the other is then
        accepted if its store is not behind.
        """)
    package static let olderStore = JournalEvent(
        "9400da2c8b6a4a3db7533775216cf642", "The store of rank @DCP_PEER@ is an older copy",
        """
        The rank's store is behind the change that the rank had reported as durable: it is a restored backup, a snapshot
        that was rolled back, or the wrong directory. The daemon exited with status 78. The entry names both changes. No
        sequence was cut, and the cluster waits.

        Stop the rank, restore the newer store and start it. If the newer store is lost for good, accept the older one:
            dcpctl store accept-older @DCP_PEER@
        which cuts every sequence to what the older store holds.
        """)
    package static let committedCut = JournalEvent(
        "0c2bdde0c3ce46829c47cb2d305d845c", "Committed tokens of @DCP_COUNT@ sequences were given up",
        """
        At a join every sequence is cut to the tokens that all ranks have, and some ranks had more. If it is one
        sequence or a few, by one commit each, the commits were in progress when a rank stopped and were never
        acknowledged. If there are more, a store has lost committed data: an older copy was accepted in its place
        (dcpctl store accept-older), or another store (dcpctl store replace), or its machine lost power with a
        durability that does not sync each commit. The entry names the first hundred sequences, with their lengths
        before and after and the ranks that had more, and counts all.

        Their clients resume from the shorter lengths and send the rest again. If many sequences were cut although no
        copy was used and no machine lost power, check the disks of the ranks that are not named: one of them loses
        synced data.
        """)
    package static let directoryAdopted = JournalEvent(
        "52cbbd146d55418b907fb528c6f91210", "The directory was rebuilt from the ranks' stores",
        """
        The coordinator was started with --adopt-ranks. Its directory now has the models and sequences that every rank's
        store has, in an epoch above any that the ranks have seen. The entry counts them, and names the first hundred
        that could not be adopted, each with the reason. Ranks keep these in their stores for unknown-grace and then
        close them.

        Omit --adopt-ranks from the next start on. Review what was not adopted: the usual reason is a store that is an
        older copy or belongs to another cluster. Restore the right store within unknown-grace, and adopt again.
        """)
    package static let stepAborted = JournalEvent(
        "89731d26ab414520aeaa46fd6c371d97", "A step was aborted",
        """
        The client received the reason, which is also in this entry. The step's tokens are rolled back on every rank,
        and the client may send them again. The usual reasons are a client that disconnected, a restart of a rank, or a
        wrong request; otherwise check the preceding entries about peers and the disk.
        """)
    package static let storeDamaged = JournalEvent(
        "b6ae26caef1c41b5aed218fbb4d3e0ed", "The store of rank @DCP_RANK@ is damaged",
        """
        A stored value has a wrong checksum or length. It is not served: the sequence ends before it.

        The usual cause is the disk or the memory of the machine: check the kernel's messages (journalctl -k) and the
        disk's self-test. A damaged sequence can be truncated or closed, and prefilled again. If the store does not
        open, stop the rank, move the store's directory away and start the rank with an empty store; `dcpctl store
        replace @DCP_RANK@` makes the cluster accept it.
        """)
    package static let diskFull = JournalEvent(
        "773e92e3175d4c9696ddd15683a87617", "The store of rank @DCP_RANK@ cannot grow",
        """
        The disk is full, or the store is above its high watermark. Nothing is lost: committed tokens are still served,
        and all ranks refuse new tokens with a retryable error until there is room.

        Close or truncate sequences (dcpctl sequence), or free space on the disk. If the store's size is the limit,
        raise disk-limit or map-size and restart the rank. With the coordinator's evict setting, sequences are closed
        automatically.
        """)
    package static let claimEnded = JournalEvent(
        "2c1dd4a4f0b94d3c8ab5a1b9f6a0c8e7", "Uncommitted tokens of a client that has gone were rolled back",
        """
        A client appended tokens to a sequence, did not commit them, and disconnected: it was killed, lost its network,
        or ended without a commit. After claim-timeout this rank rolled the tokens back, so that they do not keep other
        clients from appending. Committed tokens stay. When the client comes back, it resumes the sequence and sends the
        tokens again.

        If a client often comes back too late, raise claim-timeout; if it never commits, correct the client.
        """)
    package static let recovered = JournalEvent(
        "1bb5aeb822c14eb1aebbeef02efb483d", "Rank @DCP_RANK@ has opened its store",
        """
        Every sequence is at its last commit, however the daemon ended before. Clients send uncommitted tokens again. No
        action is needed.
        """)
    package static let connectionRefused = JournalEvent(
        "c8d56ad637e94369b16fe7f7c57c2ab3", "A connection was refused",
        """
        The peer has no right to connect (wrong user, certificate or role), has another version or belongs to another
        cluster, or does not speak this protocol. The cause is @DCP_CAUSE@; the article Security explains each cause.
        Repeated refusals for one cause are counted instead of logged; the field DCP_SUPPRESSED has their number.

        wrong-uid: add the user to allowed-uids if it should connect. plain-text, no-certificate, unknown-authority,
        expired, wrong-role: give the peer a certificate of this cluster (dcpctl certs). timeout, too-many-*: a peer
        does not identify itself, or the limits handshake-timeout, connections-per-peer and unauthenticated-connections
        are too low for the number of peers. incompatible: install this release on the peer. Do not point a port scanner
        or a health check that only opens connections at this port; `dcpctl health` sends a real step.
        """)
    package static let canaryFailing = JournalEvent(
        "df80d32412a644558635ae22d036b070", "The coordinator's canaries fail, or succeed again",
        """
        Every canary-interval the coordinator sends a small step through all ranks and checks the answer. The entry
        gives the reason for the first failure; the next entry follows when canaries succeed again. From three intervals
        after the last success on, the coordinator's /healthz answers 503.

        While a rank is missing, canaries fail; they succeed again when it is back. Otherwise run one yourself:
            dcpctl health
            dcpctl status
        """)
    package static let stoppedByFailure = JournalEvent(
        "f9de1664c3a7432e8862c8e07453a443", "A daemon stops because it cannot serve",
        """
        The entry gives the reason. Exit status 64 or 78 means that the configuration, the store or the cluster does not
        fit, which needs a correction: systemd does not restart the daemon. After any other status it does.
        """)
    package static let configurationReloaded = JournalEvent(
        "11292f1110224702972ec68f8a75b6bc", "The configuration was reloaded",
        """
        Settings that can change at run time have their new values. The entry names those that need a restart.
        """)
    package static let configurationRefused = JournalEvent(
        "6799036c3e394136b33a4321a0073360", "The configuration is refused",
        """
        The entry names the file and the line, the variable or the flag. A running daemon keeps its current settings; a
        starting daemon exits and is not restarted. After a correction, check the configuration:
            dcp-rank --check-config
            dcp-coordinator --check-config
        """)

    /// In the order of the catalog.
    package static let all = [
        rankReady, epochChanged, peerLost, secondHolder, olderStore, committedCut, directoryAdopted, stepAborted,
        storeDamaged, diskFull, claimEnded,
        recovered, connectionRefused, canaryFailing, stoppedByFailure, configurationReloaded, configurationRefused,
    ]

    /// The catalog's text: `systemd/dcp.catalog`, installed in /usr/lib/systemd/catalog.
    package static var catalog: String {
        var text = "# See journalctl(1), option -x. Made by `make reference` from JournalEvent.swift.\n"
        for event in all {
            text += "\n-- \(event.messageID)\nSubject: \(event.subject)\nDefined-By: dcp\n\n\(event.explanation)\n"
        }
        return text
    }
}
