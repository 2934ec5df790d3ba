internal import Logging

/// What an operator may want to find or be told of: a number for `journalctl MESSAGE_ID=`, and the text that
/// `journalctl -x` shows for it. The numbers never change.
package struct JournalEvent: Hashable, Sendable {
    /// 128 bits, as `systemd-id128 new` makes them: 32 hexadecimal digits.
    package let messageID: String
    package let subject: String
    /// What it means and what to do, in lines of the catalog; `@FIELD@` stands for a field of the entry.
    package let explanation: String

    private init(_ messageID: String, _ subject: String, _ explanation: String) {
        self.messageID = messageID
        self.subject = subject
        self.explanation = explanation
    }

    package static let rankReady = JournalEvent(
        "dc7e849d4b584d9c8dea9c32b3ffe248", "Rank @DCP_RANK@ serves in epoch @DCP_EPOCH@",
        """
        All ranks of the cluster are there, this one has reached its head group, and all hold the same. Steps are served.
        """)
    package static let epochChanged = JournalEvent(
        "36105359423240f5af455ae5a37fc5c3", "The membership has changed to epoch @DCP_EPOCH@",
        """
        A rank came back, or all ranks came for the first time. Steps that were in flight are aborted; clients send them
        again. Every sequence goes back to the length that all ranks have committed. Nothing has to be done.

        Epochs that follow each other without a restart of yours mean that a rank does not stay: look for the entries
        about lost peers, and at the load of the machine that it runs on.
        """)
    package static let peerLost = JournalEvent(
        "a1886ef10423484981b0f0ea2f51f985", "The connection to rank @DCP_PEER@ is lost",
        """
        Steps that need rank @DCP_PEER@ are aborted and their clients are told. Service goes on when the rank is back, in a
        new epoch, from what every rank has committed.

        Look at the rank:
            systemctl status dcp-rank@@DCP_PEER@
            journalctl -u dcp-rank@@DCP_PEER@ -e
        Where it was restarted or its machine was, nothing has to be done.
        """)
    package static let secondHolder = JournalEvent(
        "78cd34c6ded843fcb7ec60e6632d0de0", "Two processes have the store of rank @DCP_PEER@",
        """
        A copy of the store runs beside the original: a restored backup, a cloned machine, a move that was done by half. The
        process that was there first serves on; the other is refused and goes on asking. The entry names both.

        Stop the one that should not be there, and remove its copy. If it is the first: stop it, and the other one is
        taken when its store is not behind.
        """)
    package static let olderStore = JournalEvent(
        "9400da2c8b6a4a3db7533775216cf642", "The store of rank @DCP_PEER@ is an older copy",
        """
        The rank came with a store that is behind what it had reported to be on the disk: a restored backup, a snapshot that
        was rolled back, the wrong directory. Its daemon has ended with status 78. The entry names both changes. Nothing was
        cut, and the cluster waits.

        Stop the rank, bring the newer store back and start it. If that is lost for good, let the older one be taken:
            dcpctl store accept-older @DCP_PEER@
        which cuts every sequence to what the older store holds.
        """)
    package static let committedCut = JournalEvent(
        "0c2bdde0c3ce46829c47cb2d305d845c", "Committed tokens of @DCP_COUNT@ sequences were given up",
        """
        At a join every sequence is cut to what all ranks have of it. Some ranks had more. One sequence or a few, by one commit
        each: the commits were under way when a rank stopped, and nobody was told that they were done. More: a store has lost
        what it had committed. An older copy was taken in its place (dcpctl store accept-older), or another store (dcpctl store
        replace), or its machine lost power with a durability that does not sync each commit. The entry names the first hundred
        sequences, with their lengths before and after and the ranks that had more, and counts all.

        Their clients resume from the shorter lengths and bring the rest again. Where many are cut, nobody has brought a copy and
        no machine has lost power, look at the disk of the ranks that are not named: one of them forgets what it has synced.
        """)
    package static let directoryAdopted = JournalEvent(
        "52cbbd146d55418b907fb528c6f91210", "The directory was made of what the ranks hold",
        """
        The coordinator was started with --adopt-ranks. Its models and sequences are those that every rank's store has, in an
        epoch above all that the ranks have seen. The entry counts them, and names the first hundred that could not be adopted,
        each with the reason. Those that a rank holds stay in its store for unknown-grace and are closed then.

        Leave --adopt-ranks out from the next start on. Look through what was not adopted: a store that is an older copy, or
        not the cluster's, is the usual reason; bring the right one back within unknown-grace, and adopt again.
        """)
    package static let stepAborted = JournalEvent(
        "89731d26ab414520aeaa46fd6c371d97", "A step was aborted",
        """
        The client has been told why; the entry says the same. What the step had brought is taken back on every rank, and
        the client may send it again. A client that went away, a restart of a rank and a wrong request are the usual
        reasons; without any of them, see what the entries before this one tell about peers and disk.
        """)
    package static let storeDamaged = JournalEvent(
        "b6ae26caef1c41b5aed218fbb4d3e0ed", "The store of rank @DCP_RANK@ is damaged",
        """
        A stored value does not have its checksum or its length. It is not served: the sequence ends before it.

        The usual cause is the disk or the memory of the machine: look at the kernel's messages (journalctl -k) and at
        the disk's own diagnosis. A sequence that is damaged can be truncated or closed, and prefilled again. With a
        store that does not open, stop the rank, move the store's directory away, start the rank, which begins empty,
        and is taken by the cluster with `dcpctl store replace @DCP_RANK@`.
        """)
    package static let diskFull = JournalEvent(
        "773e92e3175d4c9696ddd15683a87617", "The store of rank @DCP_RANK@ cannot grow",
        """
        The disk is full, or the store is above its high watermark. Nothing is lost: what is committed is served on, and
        new tokens are refused by all ranks with an error that clients may retry, until there is room.

        Close or truncate sequences (dcpctl sequence), or free space on the disk. Where the store's size is the limit,
        raise disk-limit or map-size and restart the rank. The coordinator's evict closes sequences by itself.
        """)
    package static let claimEnded = JournalEvent(
        "2c1dd4a4f0b94d3c8ab5a1b9f6a0c8e7", "Uncommitted tokens of a client that is gone were taken back",
        """
        A client had appended tokens to a sequence, did not commit them, and went away: it was killed, lost its network, or
        ended without a commit. After claim-timeout the tokens are taken back on this rank, so that they do not keep others
        from appending. What was committed stays. The client finds out when it comes back, resumes the sequence and sends
        the tokens again.

        A client that is often late needs a longer claim-timeout; one that never commits needs to be corrected.
        """)
    package static let recovered = JournalEvent(
        "1bb5aeb822c14eb1aebbeef02efb483d", "Rank @DCP_RANK@ has taken up its store",
        """
        Every sequence is back at its last commit, whatever ended the daemon before. Tokens that were not committed are
        sent again by their clients. Nothing has to be done.
        """)
    package static let connectionRefused = JournalEvent(
        "c8d56ad637e94369b16fe7f7c57c2ab3", "A connection was refused",
        """
        Somebody connected who may not (another user, certificate or role), who is of another version or cluster, or who
        does not speak this protocol at all. The cause is @DCP_CAUSE@; the article Security tells what each means. Refusals
        of one cause are counted, not written one by one: the field DCP_SUPPRESSED tells how many were not.

        wrong-uid: name the user in allowed-uids, if it should connect. plain-text, no-certificate, unknown-authority,
        expired, wrong-role: give the peer a certificate of this cluster (dcpctl certs). timeout, too-many-*: a peer that
        does not say who it is, or the limits handshake-timeout, connections-per-peer and unauthenticated-connections are
        too low for so many at once. incompatible: bring the peer to this release. A scanner or a health check that only
        opens connections belongs elsewhere: `dcpctl health` asks for a step.
        """)
    package static let canaryFailing = JournalEvent(
        "df80d32412a644558635ae22d036b070", "Canaries of the coordinator fail, or go through again",
        """
        The coordinator sends a small step through all ranks every so often (canary-interval) and compares the answer. The
        entry says why the first one of a row failed; the next entry comes when they go through again. Meanwhile /healthz
        of the coordinator answers 503.

        While a rank is missing canaries fail, and go through again by themselves when it is back. Otherwise ask for one:
            dcpctl health
            dcpctl status
        """)
    package static let stoppedByFailure = JournalEvent(
        "f9de1664c3a7432e8862c8e07453a443", "A daemon stops because it cannot serve",
        """
        The entry says why. With exit status 64 or 78 the configuration, the store or the cluster does not fit, which does
        not get better by itself: systemd does not start it again. After everything else it does.
        """)
    package static let configurationReloaded = JournalEvent(
        "11292f1110224702972ec68f8a75b6bc", "The configuration was read again",
        """
        Settings that can change at run time have their new values. The entry names those that take a restart.
        """)
    package static let configurationRefused = JournalEvent(
        "6799036c3e394136b33a4321a0073360", "The configuration is refused",
        """
        The entry names the file and the line, the variable or the flag. A daemon that runs goes on with the settings it
        has; one that starts does not, and is not started again. To check after a correction, as the daemon would:
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
