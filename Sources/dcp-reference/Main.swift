// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import DCPDaemon
import DCPWire
import Foundation

/// Writes what is made from the code: for the source tree (the article on the configuration, the message catalog) and for
/// packages (manual pages, shell completions, a configuration file to begin with). A tool of the build, not installed.
@main
struct Main: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "dcp-reference",
        abstract: "Write the documents that are generated from the code.",
        discussion: """
            EXAMPLE
              dcp-reference --sources .
              dcp-reference --package .build/reference --programs .build/release
            """)

    @Option(help: "Write the articles Configuration.md and Metrics.md, and systemd/dcp.catalog below this source tree.")
    var sources: String?

    @Option(help: "Write manual pages, completions, dcp.yaml and the formats' numbers into this directory.")
    var package: String?

    @Option(help: "Where dcp-rank, dcp-coordinator, dcpctl and dcp-bench are.")
    var programs = ".build/release"

    func run() throws {
        if let sources {
            try write(
                ConfigurationReference.article(), sources + "/Sources/DCPCore/DCPCore.docc/Configuration.md")
            try write(MetricsArticle.text, sources + "/Sources/DCPCore/DCPCore.docc/Metrics.md")
            try write(JournalEvent.catalog, sources + "/systemd/dcp.catalog")
        }
        if let package {
            try write(FormatNumbers.line, package + "/formats")
            try write(ConfigurationReference.sample(), package + "/dcp.yaml")
            try write(ConfigurationReference.manual(release: Release.current), package + "/man/dcp.yaml.5")
            for program in ["dcp-coordinator", "dcp-rank", "dcpctl", "dcp-bench"] {
                let path = "\(programs)/\(program)"
                let help = try JSONDecoder().decode(
                    ProgramHelp.self, from: try output(of: path, ["--experimental-dump-help"]))
                try write(help.command.manual(release: Release.current), "\(package)/man/\(program).1")
                for (shell, name) in [("bash", program), ("zsh", "_\(program)"), ("fish", "\(program).fish")] {
                    let script = String(
                        decoding: try output(of: path, ["--generate-completion-script", shell]), as: UTF8.self)
                    // bash reads completions into itself; a first line that names an interpreter is for programs.
                    let lines = script.hasPrefix("#!") ? script.drop { $0 != "\n" }.dropFirst() : script[...]
                    try write(String(lines), "\(package)/completions/\(shell)/\(name)")
                }
            }
        }
    }

    private func write(_ text: String, _ path: String) throws {
        let url = URL(fileURLWithPath: path)
        try FileManager.default.createDirectory(at: url.deletingLastPathComponent(), withIntermediateDirectories: true)
        try Data(text.utf8).write(to: url)
    }

    private func output(of program: String, _ arguments: [String]) throws -> Data {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: program)
        process.arguments = arguments
        let pipe = Pipe()
        process.standardOutput = pipe
        try process.run()
        let data = try pipe.fileHandleForReading.readToEnd() ?? Data()
        process.waitUntilExit()
        guard process.terminationStatus == 0 else {
            throw ValidationError("\(program) \(arguments[0]) ended with status \(process.terminationStatus).")
        }
        return data
    }
}
