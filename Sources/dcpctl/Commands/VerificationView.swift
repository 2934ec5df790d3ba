// SPDX-License-Identifier: Apache-2.0

import DCPClient
import DCPConsole
import DCPCore
import DCPWire

/// The output of `dcpctl verify`.
struct VerificationView: Encodable {
    struct Rank: Encodable {
        var rank: Int
        var sequences: Int
        var blocks: Int
        var rows: Int
        var bytes: Int
        var damage: Int
        var leftovers: Int
        /// Found, and too many to be listed.
        var unlisted: Int
    }

    struct Finding: Encodable {
        var rank: Int
        var kind: String
        var damage: Bool
        var sequence: String?
        var layer: Int?
        var block: Int?
        var intactLength: Int?
        var message: String
    }

    var ranks: [Rank]
    var findings: [Finding]
    var repairs: [RepairView] = []
    /// Findings of damage, listed or not.
    var damaged: Int
    /// Whether all damage that was found has been cut off.
    var repaired = false

    /// - Parameter names: the directory's; a sequence it does not know is shown by its number.
    init(_ ranks: [RankVerification], names: [SequenceID: String]) {
        self.ranks = ranks.map { rank in
            let damage = rank.findings.count { $0.isDamage }
            return Rank(
                rank: Int(rank.rank.value), sequences: rank.progress.sequences, blocks: rank.progress.blocks,
                rows: rank.progress.rows, bytes: rank.progress.byteCount, damage: damage,
                leftovers: rank.findings.count - damage, unlisted: rank.unlistedCount)
        }
        findings = ranks.flatMap { rank in
            rank.findings.map { finding in
                Finding(
                    rank: Int(rank.rank.value), kind: finding.kind.name, damage: finding.isDamage,
                    sequence: finding.sequence.map { names[$0] ?? "\($0)" }, layer: finding.layer, block: finding.block,
                    intactLength: finding.intactLength, message: finding.message)
            }
        }
        damaged = self.ranks.reduce(0) { $0 + $1.damage + $1.unlisted }
    }

    var text: String {
        var table = TextTable("RANK", "SEQUENCES", "BLOCKS", "ROWS", "CHECKED", "DAMAGE", "LEFTOVERS")
        for rank in ranks {
            table.append([
                "\(rank.rank)", "\(rank.sequences)", "\(rank.blocks)", "\(rank.rows)", ByteFormat.format(rank.bytes),
                "\(rank.damage + rank.unlisted)", "\(rank.leftovers)",
            ])
        }
        var parts = [table.rendered()]
        if !findings.isEmpty {
            var table = TextTable("RANK", "SEQUENCE", "LAYER", "BLOCK", "GOOD UP TO", "WHAT")
            for finding in findings {
                table.append([
                    "\(finding.rank)", finding.sequence ?? "-", finding.layer.map { "\($0)" } ?? "-",
                    finding.block.map { "\($0)" } ?? "-", finding.intactLength.map { "\($0)" } ?? "-", finding.message,
                ])
            }
            parts.append(table.rendered())
        }
        if !repairs.isEmpty { parts.append(repairs.map(\.done).joined(separator: "\n")) }
        parts.append(conclusion)
        return parts.joined(separator: "\n\n")
    }

    private var conclusion: String {
        let unlisted = ranks.reduce(0) { $0 + $1.unlisted }
        if damaged == 0 { return "No damage." }
        if repaired { return "All damage has been repaired." }
        let more = unlisted > 0 ? " \(unlisted) findings are not listed: repair, then verify again." : ""
        return "\(damaged) findings of damage." + more
            + (repairs.isEmpty ? " `dcpctl verify --repair` truncates damaged sequences." : "")
    }
}

/// A sequence that is cut back, or was.
struct RepairView: Encodable {
    var sequence: String
    /// The committed length before; nothing when a rank had lost the record.
    var from: Int?
    var to: Int
    /// Token ids or annotation are given again, from a rank that has them.
    var restoresTokens: Bool

    init(_ repair: SequenceRepair) {
        restoresTokens = repair.restoresTokens
        sequence = repair.sequence.record.name
        from = repair.isRecordLost ? nil : repair.committedLength
        to = repair.isRecordLost ? 0 : repair.intactLength
    }

    private var lengths: String {
        from.map { "from \($0) to \(to) tokens" } ?? "to 0 tokens, because a rank has lost its record"
    }
    private func text(_ cut: String, _ given: String) -> String {
        let parts = (from == to ? [] : ["\(cut) \(lengths)"]) + (restoresTokens ? [given] : [])
        return "Sequence `\(sequence)` " + parts.joined(separator: ", and ") + "."
    }
    var plan: String { text("will be cut", "will get its token ids and annotation again") }
    var done: String { text("was cut", "got its token ids and annotation again") }
}
