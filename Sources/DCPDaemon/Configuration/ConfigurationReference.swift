/// The settings, told to people: the article Configuration.md, the manual page dcp.yaml(5) and a file to begin with.
/// All three from the table, so none of them can lag behind the code.
package enum ConfigurationReference {
    private static let headings: [(Setting.Section, title: String, introduction: String)] = [
        (
            .cluster, "The cluster",
            "What the coordinator makes of the cluster when its state is created. Ranks are told; they need none of it."
        ),
        (.coordinator, "The coordinator", "Where it listens and what it keeps."),
        (
            .rank, "Ranks",
            "For every rank of the host. Lines below `ranks`, by number, stand before them for one rank. `{rank}` in an "
                + "address or a path is the rank's number."
        ),
    ]

    private static let precedence = """
        A setting is taken from its flag, else from its environment variable, else from the file, else it is what is built \
        in. A key that does not exist, a value that cannot be and a variable that looks like one of these and is none are \
        refused, with file and line and what would be right; the daemon then ends with status 78 (64 for the command \
        line), after which systemd does not start it again.
        """

    private static let reloading = """
        `systemctl reload` (SIGHUP) reads the file again. Keys marked so take their new value at once; of others the log \
        says that they take a restart. A file that is refused changes nothing.
        """

    /// The DocC article.
    package static func article() -> String {
        var text = """
            # Configuration

            Every setting of the daemons: its key, its flag, its environment variable, and what it may be.

            <!-- Made by `make reference` from ConfigurationKey+Table.swift; a test compares them. -->

            ## The file

            `/etc/dcp/dcp.yaml`, or what `--config` or `DCP_CONFIG` names, is one file for all daemons of a host; each of \
            them checks all of it.

            ```yaml
            \(example)
            ```

            \(precedence)

            ```sh
            dcp-rank --check-config                 # the file, without being any rank
            dcp-rank --rank 2 --print-config        # every key: value, default, where the value comes from
            dcp-coordinator --print-config --json   # with the names of flags and variables
            ```

            \(reloading)

            """
        for (section, title, introduction) in headings {
            text += "\n## \(title)\n\n\(introduction)\n"
            for key in Setting.all where key.section == section {
                text += """

                    ### \(key.path)

                    \(key.summary) \(key.detail)

                    | flag | variable | allowed | default | reload |
                    |---|---|---|---|---|
                    | `\(key.flag)` | `\(key.variable)` | \(key.domain) | \(key.defaultValue.map { "`\($0)`" } ?? "none") \
                    | \(key.isReloadable ? "yes" : "restart") |

                    """
            }
        }
        return wrapped(text)
    }

    /// Paragraphs in lines of 120, as the other articles have them; tables and code as they are.
    private static func wrapped(_ text: String) -> String {
        var lines: [String] = []
        var isCode = false
        for line in text.split(separator: "\n", omittingEmptySubsequences: false) {
            if line.hasPrefix("```") { isCode.toggle() }
            guard !isCode, !line.hasPrefix("|") else {
                lines.append(String(line))
                continue
            }
            var current = ""
            for word in line.split(separator: " ") {
                if current.count + 1 + word.count > 120 {
                    lines.append(current)
                    current = ""
                }
                current += (current.isEmpty ? "" : " ") + word
            }
            lines.append(current)
        }
        return lines.joined(separator: "\n")
    }

    private static let example = """
        cluster:
          ranks: 4
        rank:
          threads: 2
          durability: everysec
        ranks:
          3:
            store: /srv/fast/dcp/rank-3
        """

    /// A file that changes nothing: every key, commented out, at its default.
    package static func sample() -> String {
        var text = """
            # dcp.yaml(5). One file for all daemons of this host. Every key is here, commented out, at its default; those that
            # have none show an example.
            # Check a change with: dcp-rank --check-config

            """
        for (section, _, _) in headings {
            text += "\n\(section.rawValue):\n"
            for key in Setting.all where key.section == section {
                let note = key.defaultValue == nil ? " No default; for example:" : ""
                text += "  # \(key.summary)\(note)\n  #\(key.name): \(key.defaultValue ?? key.example)\n"
            }
        }
        return text + "\n# What is different for single ranks.\nranks:\n  #0:\n    #threads: 4\n"
    }

    /// dcp.yaml(5), in the macros of man(7).
    package static func manual(release: String) -> String {
        var page = ManualPage(name: "dcp.yaml", section: 5, release: release, title: "DCP configuration")
        page.heading("NAME")
        page.line("dcp.yaml \\- settings of dcp-coordinator and dcp-rank")
        page.heading("SYNOPSIS")
        page.paragraph(ConfigurationFile.defaultPath)
        page.heading("DESCRIPTION")
        page.paragraph("One file for all daemons of a host; each of them checks all of it.")
        page.paragraph(precedence)
        page.paragraph(reloading)
        for (section, title, introduction) in headings {
            page.heading(title.uppercased())
            page.paragraph(introduction)
            for key in Setting.all where key.section == section {
                page.item("\(key.path): \(key.placeholder)")
                page.body("\(key.summary) \(key.detail)")
                page.breakLine()
                page.body(
                    "Allowed: \(key.domain). Default: \(key.defaultValue ?? "none"). Flag: \(key.flag). Variable: "
                        + "\(key.variable)." + (key.isReloadable ? " Can be reloaded." : ""))
            }
        }
        page.heading("EXAMPLE")
        page.verbatim(example)
        page.heading("SEE ALSO")
        page.line("\\fBdcp-coordinator\\fR(1), \\fBdcp-rank\\fR(1), \\fBdcpctl\\fR(1), \\fBsystemd.exec\\fR(5)")
        return page.text
    }
}
