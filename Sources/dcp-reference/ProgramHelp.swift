// SPDX-License-Identifier: Apache-2.0

import DCPConsole
import DCPDaemon

/// What a program says of itself with `--experimental-dump-help`; as much of it as a manual page shows.
struct ProgramHelp: Decodable {
    struct Argument: Decodable {
        struct Name: Decodable {
            var kind: String
            var name: String
        }

        var kind: String
        var shouldDisplay: Bool
        var names: [Name]?
        var valueName: String?
        var abstract: String?
        var discussion: String?
        var defaultValue: String?

        /// `--chunk tokens`, `-h, --help` or `file`.
        var term: String {
            guard let names, !names.isEmpty else { return valueName ?? "" }
            let spelled = names.map { ($0.kind == "long" ? "--" : "-") + $0.name }.joined(separator: ", ")
            return kind == "option" ? "\(spelled) \(valueName ?? "value")" : spelled
        }
    }

    struct Command: Decodable {
        var commandName: String
        var abstract: String?
        var discussion: String?
        var arguments: [Argument]?
        var subcommands: [Command]?
    }

    var command: Command
}

extension ProgramHelp.Command {
    private static let exitStatuses =
        ExitStatus.allCases.map { status -> (String, String) in
            let meaning = status == .success ? "done; for a daemon: it stopped on request" : status.meaning
            return ("\(status.rawValue)", meaning.prefix(1).uppercased() + meaning.dropFirst() + ".")
        } + [("78", "A daemon's configuration, its store or its cluster does not fit.")]

    /// The whole program on one page of section 1.
    func manual(release: String) -> String {
        var page = ManualPage(name: commandName, section: 1, release: release, title: "DCP")
        page.heading("NAME")
        let summary = (abstract ?? "").split(separator: "\n").joined(separator: " ")
        page.line("\(ManualPage.escaped(commandName)) \\- \(ManualPage.escaped(summary))")
        page.heading("SYNOPSIS")
        let hasCommands = !(subcommands ?? []).isEmpty
        page.paragraph("\(commandName) \(hasCommands ? "command " : "")[options]")
        page.heading("DESCRIPTION")
        describe(in: &page)
        let commands = (subcommands ?? []).filter { $0.commandName != "help" }
        if commands.isEmpty {
            page.heading("OPTIONS")
            options(in: &page)
        } else {
            page.heading("COMMANDS")
            for command in commands { command.section(below: commandName, in: &page) }
        }
        page.heading("EXIT STATUS")
        for (status, meaning) in Self.exitStatuses {
            page.item(status)
            page.body(meaning)
        }
        page.heading("SEE ALSO")
        page.line("\\fBdcp.yaml\\fR(5), \\fBdcp\\-coordinator\\fR(1), \\fBdcp\\-rank\\fR(1), \\fBdcpctl\\fR(1)")
        return page.text
    }

    private func section(below parent: String, in page: inout ManualPage) {
        let name = "\(parent) \(commandName)"
        let commands = (subcommands ?? []).filter { $0.commandName != "help" }
        guard commands.isEmpty else {
            for command in commands { command.section(below: name, in: &page) }
            return
        }
        page.subheading(name)
        page.paragraph(abstract ?? "")
        describe(in: &page)
        options(in: &page)
    }

    /// The discussion: its paragraphs, with examples as they stand.
    private func describe(in page: inout ManualPage) {
        for paragraph in (discussion ?? "").split(separator: "\n\n") {
            if paragraph.hasPrefix("EXAMPLE\n") {
                page.paragraph("Example:")
                page.verbatim(String(paragraph.dropFirst("EXAMPLE\n".count)))
            } else if paragraph.contains("\n  ") || paragraph.hasPrefix("  ") {
                page.verbatim(String(paragraph))
            } else {
                page.paragraph(String(paragraph))
            }
        }
    }

    private func options(in page: inout ManualPage) {
        for argument in arguments ?? [] where argument.shouldDisplay {
            page.item(argument.term)
            let initial = argument.defaultValue.map { " (default: \($0))" } ?? ""
            page.body((argument.abstract ?? "") + initial)
        }
    }
}
